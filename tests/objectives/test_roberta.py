"""RoBERTa's objective: a masked language model, and with pairs the relation of their segments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lmmodules.batch import IGNORED, MaskedBatch
from lmmodules.errors import InputError
from lmmodules.models import Transformer
from lmmodules.objectives import MaskedLM, RoBERTa

B, T, D, V = 4, 12, 16, 41


def backbone(**options: Any) -> Transformer:
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "hidden_size": D, "num_layers": 2, "num_heads": 2, "initializer_std": 0.3}
    return Transformer(causal=False, **(sizes | options))


def roberta(**options: Any) -> RoBERTa:
    network = backbone()
    torch.manual_seed(1)
    model = RoBERTa(network, **options)
    if model.next_sentence_head is not None:  # biases start at zero, which would hide them
        torch.nn.init.normal_(model.next_sentence_head.dense.bias)
        torch.nn.init.normal_(model.next_sentence_head.output.bias)
    return model


def pairs(relation: tuple[int, ...] = (0, 1, 1, IGNORED)) -> MaskedBatch:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(V, (B, T), generator=generator)
    chosen = torch.rand(B, T, generator=generator) < 0.3
    chosen[:, 0] = torch.tensor([True, False, False, False])  # the first position may be a target itself
    attention_mask = torch.ones(B, T, dtype=torch.int64)
    attention_mask[2, 8:] = 0
    chosen[2, 8:] = False
    return {
        "input_ids": ids.masked_fill(chosen, V - 1),
        "labels": torch.where(chosen, ids, IGNORED),
        "attention_mask": attention_mask,
        "next_sentence_labels": torch.tensor(relation),
    }


def gradients(value: Tensor, model: RoBERTa) -> dict[str, Tensor | None]:
    model.zero_grad()
    value.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_without_next_sentence_it_is_the_masked_language_model() -> None:
    model = roberta()
    network = backbone()
    torch.manual_seed(1)
    plain = MaskedLM(network)
    batch = pairs()
    ours, theirs = model.losses(batch), plain.losses(batch)
    assert ours.keys() == theirs.keys() == {"loss", "accuracy"}
    assert ours["loss"].sum.item() == theirs["loss"].sum.item()
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_the_relation_is_read_from_the_first_position_by_definition() -> None:
    model = roberta(next_sentence=True).double()
    batch = pairs()
    terms = model.losses(batch)
    head = model.next_sentence_head
    assert head is not None
    first = model.hidden_states(batch)[:, 0]  # (B, D), every position of the last layer computed
    logits = torch.tanh(first @ head.dense.weight.T + head.dense.bias) @ head.output.weight.T + head.output.bias
    expected = -sum(torch.log_softmax(logits[row], -1)[label] for row, label in enumerate((0, 1, 1)))
    assert terms["next_sentence"].sum.item() == pytest.approx(expected.item(), abs=1e-12)
    assert int(terms["next_sentence"].count) == 3  # the row without a label only fills up the batch
    hits = sum(int(logits[row].argmax() == label) for row, label in enumerate((0, 1, 1)))
    assert int(terms["next_sentence_accuracy"].sum) == hits


def test_the_loss_of_tokens_is_that_of_a_masked_language_model_beside_it() -> None:
    model, plain = roberta(next_sentence=True).double(), roberta().double()
    plain.load_state_dict(
        {name: value for name, value in model.state_dict().items() if not name.startswith("next_sentence_head")}
    )
    batch = pairs()
    with_pairs, alone = model.losses(batch), plain.losses(batch)
    assert with_pairs["masked_lm"].sum.item() == pytest.approx(alone["loss"].sum.item(), abs=1e-12)
    assert int(with_pairs["masked_lm"].count) == int(alone["loss"].count)
    assert with_pairs["accuracy"].sum.item() == alone["accuracy"].sum.item()


def test_the_optimised_loss_is_the_sum_of_both_means() -> None:
    batch = pairs()
    for weight in (1.0, 0.25):
        model = roberta(next_sentence=True, next_sentence_weight=weight).double()
        terms = model.losses(batch)
        means = {name: (term.sum / term.count).item() for name, term in terms.items()}
        value = model.training_step(batch, 0).item()
        assert value == pytest.approx(means["masked_lm"] + weight * means["next_sentence"], abs=1e-12)
        logged = model.collect_training_metrics()
        assert logged["loss"] == pytest.approx(value, abs=1e-12)


def test_where_gradients_flow() -> None:
    model = roberta(next_sentence=True)
    of_relation = gradients(model.losses(pairs())["next_sentence"].sum, model)
    assert of_relation["next_sentence_head.dense.weight"] is not None
    assert of_relation["head.dense.weight"] is None or not of_relation["head.dense.weight"].any()
    assert of_relation["backbone.blocks.0.attention.query_key_value.weight"].any()  # type: ignore[union-attr]
    of_tokens = gradients(model.losses(pairs())["masked_lm"].sum, model)
    assert of_tokens["next_sentence_head.dense.weight"] is None
    everything = gradients(model.training_step(pairs(), 0), model)
    assert all(gradient is not None for gradient in everything.values())


def test_a_batch_of_fillers_gives_zero_and_not_nan() -> None:
    model = roberta(next_sentence=True)
    batch = pairs((IGNORED,) * B)
    batch["labels"] = torch.full((B, T), IGNORED)
    value = model.training_step(batch, 0)
    assert value.item() == 0
    assert all(gradient is not None and not gradient.any() for gradient in gradients(value, model).values())


def test_perplexity_is_of_the_tokens_alone() -> None:
    assert roberta().perplexity_term == "loss"
    assert roberta(next_sentence=True).perplexity_term == "masked_lm"


def test_an_untrained_network_guesses_among_the_vocabulary() -> None:
    # ln V and half the variance of the logits: 16 hidden units of a layer norm, weights of standard deviation 0.02.
    torch.manual_seed(3)
    network = backbone(initializer_std=0.02)
    terms = RoBERTa(network).losses(pairs())
    assert terms["loss"].sum.item() / float(terms["loss"].count) == pytest.approx(
        math.log(V) + 0.5 * D * 0.02**2, abs=0.05
    )


class TestRefusals:
    def test_pairs_that_are_missing(self) -> None:
        batch = pairs()
        del batch["next_sentence_labels"]
        with pytest.raises(InputError, match=r"`next_sentence` needs sentence pairs.*use `packing=segment_pairs`"):
            roberta(next_sentence=True).losses(batch)

    def test_a_weight_that_takes_the_loss_away(self) -> None:
        with pytest.raises(InputError, match=r"`next_sentence_weight` must be positive, but is 0.*next_sentence=false"):
            roberta(next_sentence=True, next_sentence_weight=0)

    def test_a_causal_backbone(self) -> None:
        causal = Transformer(vocab_size=V, hidden_size=D, num_layers=1, num_heads=2, causal=True)
        with pytest.raises(InputError, match="`RoBERTa` needs a bidirectional backbone"):
            RoBERTa(causal)
