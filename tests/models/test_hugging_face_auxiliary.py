"""An auxiliary model beside a model of transformers: what it shares, how large it is, and a step of both objectives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lmmodules.batch import IGNORED
from lmmodules.errors import InputError
from lmmodules.models import AuxiliaryLM
from lmmodules.models.hugging_face_backbone import HuggingFaceBackbone
from lmmodules.models.hugging_face_fields import plain_fields
from lmmodules.objectives import ELECTRA, CocoLM

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

V, MASK = 37, 36
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24,
    "max_position_embeddings": 22,
}  # fmt: skip
DISTILLED = {"dim": 16, "n_layers": 3, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 20}
NORM = {"embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias"}
TOKENS, POSITIONS = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
SEGMENTS = "embeddings.token_type_embeddings.weight"
# Of each family what is embedded together.
FAMILIES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "Bert": (SIZES, {TOKENS, POSITIONS, SEGMENTS, *NORM}),
    "Roberta": (SIZES, {TOKENS, POSITIONS, SEGMENTS, *NORM}),
    "Electra": ({**SIZES, "embedding_size": 8}, {TOKENS, POSITIONS, SEGMENTS, *NORM}),
    "DistilBert": (DISTILLED, {TOKENS, POSITIONS, *NORM}),
    "MPNet": (SIZES, {TOKENS, POSITIONS, *NORM}),
    "ModernBert": (
        {**SIZES, "global_attn_every_n_layers": 2, "attention_dropout": 0.1},
        {"embeddings.tok_embeddings.weight", "embeddings.norm.weight"},
    ),
}


def wrapped(family: str, **changes: Any) -> HuggingFaceBackbone:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=V, bos_token_id=0, cls_token_id=0, pad_token_id=1, eos_token_id=2, sep_token_id=2,
        initializer_range=0.3, **{**FAMILIES[family][0], **changes},
    )  # fmt: skip
    return HuggingFaceBackbone(config=plain_fields(config))


def shared_names(auxiliary: AuxiliaryLM, main: HuggingFaceBackbone) -> set[str]:
    theirs = {id(parameter) for parameter in main.parameters()}
    names = {name for name, parameter in auxiliary.encoder.named_parameters() if id(parameter) in theirs}
    return {name.removeprefix("model.") for name in names}


@pytest.mark.parametrize("family", FAMILIES)
class TestFamilies:
    def test_what_is_shared(self, family: str) -> None:
        main = wrapped(family)
        every = FAMILIES[family][1]
        tokens = {name for name in every if "word_embeddings" in name or "tok_embeddings" in name}
        for shared, expected in (("embeddings", every), ("tokens", tokens), ("none", set())):
            auxiliary = AuxiliaryLM(main, shared=shared)  # type: ignore[arg-type]
            assert shared_names(auxiliary, main) == expected
            assert (auxiliary.output_weight is main.token_embedding.weight) == (shared != "none")

    def test_depth(self, family: str) -> None:
        main = wrapped(family)
        for depth, layers in ((1.0, 3), (0.6, 2), (0.1, 1)):
            encoder = AuxiliaryLM(main, depth=depth).encoder
            assert len(encoder.blocks) == encoder.num_layers == layers
            assert (encoder.hidden_size, encoder.num_heads) == (16, 4)
        assert main.num_layers == len(main.blocks) == 3

    @pytest.mark.parametrize("objective", [ELECTRA, CocoLM])
    def test_a_step_trains_both(self, family: str, objective: type[ELECTRA]) -> None:
        main = wrapped(family)
        model = objective(main, auxiliary_depth=0.34, auxiliary_width=1.0)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(3, MASK, (4, 12), generator=generator)
        chosen = torch.rand(4, 12, generator=generator) < 0.3
        chosen[:, 0] = False
        batch: Any = {
            "input_ids": ids.masked_fill(chosen, MASK), "labels": torch.where(chosen, ids, IGNORED),
            "draws": torch.rand(4, 12, generator=generator), "crop_ids": ids[:, :9],
        }  # fmt: skip
        loss = model.training_step(batch, 0)
        loss.backward()  # type: ignore[no-untyped-call]
        # What stands behind the features that nobody reads, such as padding's embedding, is no part of this.
        trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.count_nonzero()}
        for part in ("backbone.model", "auxiliary.encoder.model", "auxiliary.head", "detection_head"):
            assert any(name.startswith(part) for name in trained), part
        again = objective(HuggingFaceBackbone(config=main.fields), auxiliary_depth=0.34, auxiliary_width=1.0)
        again.load_state_dict(model.state_dict())
        with torch.no_grad():
            losses = [{name: term.sum.item() for name, term in one.eval().losses(batch).items() if term.weight}
                      for one in (model, again)]  # fmt: skip
        assert losses[0] == losses[1]


def test_narrower_where_the_family_goes_from_embeddings_to_hidden_states() -> None:
    main = wrapped("Electra")
    auxiliary = AuxiliaryLM(main, width=0.5)
    encoder = auxiliary.encoder
    assert (encoder.hidden_size, encoder.num_heads, encoder.head_dim) == (8, 2, 4)
    assert encoder.model.config.intermediate_size == 12  # type: ignore[union-attr]
    assert auxiliary.output_weight is main.token_embedding.weight
    features = auxiliary.features(torch.zeros(1, 4, dtype=torch.int64), torch.tensor([2]))
    assert features.shape == (1, 8)


def test_a_narrower_one_that_shares_nothing() -> None:
    auxiliary = AuxiliaryLM(wrapped("Bert"), width=0.25, shared="none")
    assert auxiliary.output_weight.shape == (V, 4)
    assert auxiliary.features(torch.zeros(1, 4, dtype=torch.int64), torch.tensor([2])).shape == (1, 4)


def test_a_narrower_one_cannot_share_embeddings_of_hidden_size() -> None:
    sentence = "`auxiliary_width` must be 1 beside a `BertModel`.* but is 0.25; use `objective.auxiliary_width=1`"
    with pytest.raises(InputError, match=sentence):
        ELECTRA(wrapped("Bert"))


def test_dropout() -> None:
    main = wrapped("Bert", hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.1)
    assert AuxiliaryLM(main).drops
    assert AuxiliaryLM(main, dropout=0.0).drops  # what is shared drops as the main one does
    assert not AuxiliaryLM(main, dropout=0.0, shared="tokens").drops
    fields = AuxiliaryLM(main, dropout=0.4, shared="tokens").encoder.fields  # type: ignore[union-attr]
    assert (fields["hidden_dropout_prob"], fields["attention_probs_dropout_prob"]) == (0.4, 0.4)
    modern = wrapped("ModernBert", embedding_dropout=0.0)  # its attention alone drops, by a number
    assert AuxiliaryLM(modern).drops
    assert not AuxiliaryLM(modern, dropout=0.0).drops
