"""Sequence classification against that of transformers, in float64 on random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lmmodules.models import from_transformers
from lmmodules.objectives import Classification, MultipleChoice

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
LENGTHS = [12, 5, 9]


def exaggerated(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model.double().eval()


def batch(pad_id: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(12) < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.randint(5, 61, (3, 12), generator=generator)
    return {"input_ids": torch.where(mask == 1, ids, pad_id), "attention_mask": mask}


def ours(theirs: Any, language_model: Any, dense: Any, output: Any, kind: type[Any] = Classification) -> Any:
    """The same weights in our parts: the body by way of a model with a language-model head."""
    body = language_model(theirs.config).double().eval()
    body.base_model.load_state_dict(theirs.base_model.state_dict(), strict=False)
    backbone, _ = from_transformers(body)
    objective = (
        kind(backbone, [str(number) for number in range(output.out_features)])
        if kind is Classification
        else kind(backbone)
    )
    objective = objective.double().eval()
    objective.head.dense.load_state_dict(dense.state_dict())
    objective.head.output.load_state_dict(output.state_dict())
    return objective


def test_roberta() -> None:
    torch.manual_seed(0)
    config = transformers.RobertaConfig(**SIZES, type_vocab_size=1, layer_norm_eps=1e-5, num_labels=3)
    theirs = exaggerated(transformers.RobertaForSequenceClassification(config))
    objective = ours(theirs, transformers.RobertaForMaskedLM, theirs.classifier.dense, theirs.classifier.out_proj)
    given = batch(pad_id=1)
    expected = theirs(**given).logits
    torch.testing.assert_close(objective(given), expected, rtol=0, atol=1e-9)
    assert expected.std() > 0.03
    labels = torch.tensor([2, 0, 1])
    term = objective.losses({**given, "labels": labels})["loss"]
    assert (term.sum / term.count).item() == pytest.approx(theirs(**given, labels=labels).loss.item(), abs=1e-9)


def test_bert_whose_pooler_is_our_dense_layer() -> None:
    torch.manual_seed(0)
    theirs = exaggerated(transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, num_labels=2)))
    objective = ours(theirs, transformers.BertForMaskedLM, theirs.bert.pooler.dense, theirs.classifier)
    given = batch(pad_id=0)
    types = (torch.arange(12) >= 4).long() * given["attention_mask"]
    for change in ({}, {"token_type_ids": types}):
        torch.testing.assert_close(objective({**given, **change}), theirs(**given, **change).logits, rtol=0, atol=1e-9)
    assert not torch.allclose(objective(given), objective({**given, "token_type_ids": types}))


def test_multiple_choice_whose_pooler_is_our_dense_layer() -> None:
    """transformers puts one linear layer on BERT's pooler here, where RoBERTa itself has none."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(**SIZES, type_vocab_size=1, layer_norm_eps=1e-5)
    theirs = exaggerated(transformers.RobertaForMultipleChoice(config))
    objective = ours(
        theirs, transformers.RobertaForMaskedLM, theirs.roberta.pooler.dense, theirs.classifier, MultipleChoice
    )
    given = {name: torch.stack([tensor, tensor.roll(1, 0)], dim=1) for name, tensor in batch(pad_id=1).items()}
    torch.testing.assert_close(objective(given), theirs(**given).logits, rtol=0, atol=1e-9)


def test_gpt2_by_its_last_token() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=61, n_embd=32, n_layer=3, n_head=4, n_positions=40, num_labels=2, pad_token_id=0,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    theirs = exaggerated(transformers.GPT2ForSequenceClassification(config))
    body = transformers.GPT2LMHeadModel(config).double().eval()
    body.transformer.load_state_dict(theirs.transformer.state_dict())
    backbone, _ = from_transformers(body)
    objective = Classification(backbone).double().eval()
    seen: list[torch.Tensor] = []
    objective.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    given = batch(pad_id=0)
    objective(given)
    # Its head is one linear layer without a bias, so the states that the heads read are compared.
    torch.testing.assert_close(seen[0] @ theirs.score.weight.T, theirs(**given).logits, rtol=0, atol=1e-9)
