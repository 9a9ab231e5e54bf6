"""Replaced-token detection: what is written, who learns from it, and what is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodules.batch import IGNORED, DetectionBatch
from lmmodules.errors import InputError
from lmmodules.models import Alibi, Learned, NoPosition, PositionScheme, RelativeBias, Rotary, Sinusoidal, Transformer
from lmmodules.objectives import ELECTRA, Objective

B, T, D, V, MASK = 4, 12, 32, 41, 40


def backbone(**options: Any) -> Transformer:
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "hidden_size": D, "num_layers": 2, "num_heads": 4, "initializer_std": 0.2}
    return Transformer(causal=False, **(sizes | options))


def electra(network: dict[str, Any] | None = None, **options: Any) -> ELECTRA:
    return ELECTRA(backbone(**(network or {})), **options)


def masked_batch() -> DetectionBatch:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(MASK, (B, T), generator=generator)
    chosen = torch.rand(B, T, generator=generator) < 0.3
    chosen[:, 0] = False
    return {
        "input_ids": ids.masked_fill(chosen, MASK),
        "labels": torch.where(chosen, ids, IGNORED),
        "draws": torch.rand(B, T, generator=generator),
    }


def original(batch: DetectionBatch) -> Tensor:
    return torch.where(batch["labels"] == IGNORED, batch["input_ids"], batch["labels"])


def force(model: ELECTRA, token: int) -> None:
    """Make the auxiliary model sure of one token."""
    assert model.auxiliary.head.bias is not None
    with torch.no_grad():
        model.auxiliary.head.bias[token] = 1e4


def gradients(model: Objective, value: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    value.backward(retain_graph=True)
    return {name: parameter.grad for name, parameter in model.named_parameters()}


class TestCorruption:
    def test_only_masked_positions_are_written(self) -> None:
        model, batch = electra(), masked_batch()
        text, _ = model.corrupt(batch)
        asked = batch["labels"] != IGNORED
        assert torch.equal(text.input_ids[~asked], batch["input_ids"][~asked])
        assert torch.equal(text.originals.view(B, T), text.input_ids == original(batch))
        assert torch.equal(text.labels, batch["labels"][asked])
        assert not text.originals.all()
        assert text.input_ids[asked].unique().numel() > 3

    def test_a_right_guess_counts_as_original(self) -> None:
        model, batch = electra(), masked_batch()
        batch["labels"] = torch.where(batch["labels"] == IGNORED, IGNORED, 7)
        force(model, 7)
        text, terms = model.corrupt(batch)
        assert text.originals.all()
        assert torch.equal(text.input_ids, original(batch))
        assert terms["auxiliary_accuracy"].sum == terms["auxiliary_accuracy"].count == len(text.rows)
        assert model.losses(batch)["replaced"].sum == 0

    def test_a_wrong_guess_everywhere_replaces_all(self) -> None:
        model, batch = electra(), masked_batch()
        batch["labels"] = torch.where(batch["labels"] == IGNORED, IGNORED, 7)
        force(model, 8)
        text, _ = model.corrupt(batch)
        assert torch.equal(~text.originals.view(B, T), batch["labels"] != IGNORED)
        assert model.losses(batch)["replaced"].sum == len(text.rows)

    def test_it_is_the_same_again_and_in_any_batch(self) -> None:
        model, batch = electra(), masked_batch()
        first = model.corrupt(batch)[0].input_ids
        torch.manual_seed(123)
        assert torch.equal(model.corrupt(batch)[0].input_ids, first)
        part: Any = {name: tensor[[2, 0]] for name, tensor in batch.items()}  # another rank's batch, say
        assert torch.equal(model.corrupt(part)[0].input_ids, first[[2, 0]])
        batch["draws"] = batch["draws"].flip(0)
        assert not torch.equal(model.corrupt(batch)[0].input_ids, first)

    def test_evaluation_draws_without_dropout_and_training_with_it(self) -> None:
        batch = masked_batch()
        network = {"dropout": 0.5, "attention_dropout": 0.5}
        model = electra(network).train()
        modes = [module.training for module in model.modules()]
        texts = [model.corrupt(batch)[0].input_ids for _ in range(4)]
        assert all(torch.equal(text, texts[0]) for text in texts)
        assert [module.training for module in model.modules()] == modes
        assert torch.equal(model.eval().corrupt(batch)[0].input_ids, texts[0])
        model = electra(network, sampling="training").train()
        texts = [model.corrupt(batch)[0].input_ids for _ in range(4)]
        assert not all(torch.equal(text, texts[0]) for text in texts)

    @pytest.mark.parametrize(
        ("options", "runs"),
        [({}, 2), ({"sampling": "training"}, 1), ({"auxiliary_dropout": 0.0}, 1)],
    )
    def test_how_often_the_auxiliary_model_runs(self, options: dict[str, Any], runs: int) -> None:
        model, calls = electra({"dropout": 0.1}, **options).train(), []
        model.auxiliary.encoder.register_forward_hook(lambda *_: calls.append(1))
        model.losses(masked_batch())
        assert len(calls) == runs
        model.eval().losses(masked_batch())
        assert len(calls) == runs + 1

    def test_a_batch_without_a_mask(self) -> None:
        model, batch = electra(), masked_batch()
        batch["labels"] = torch.full((B, T), IGNORED)
        terms = model.losses(batch)
        assert terms["auxiliary"].sum == terms["auxiliary"].count == 0
        found = gradients(model, model.training_step(batch, 0))
        assert all(gradient is not None and gradient.isfinite().all() for gradient in found.values())


class TestLosses:
    def test_they_are_those_of_the_definition(self) -> None:
        model, batch = electra(), masked_batch()
        text, _ = model.corrupt(batch)
        asked = batch["labels"] != IGNORED
        hidden = model.auxiliary.encoder(batch["input_ids"])[asked]
        logits = model.auxiliary.head(hidden, model.backbone.token_embedding.weight)
        auxiliary = F.cross_entropy(logits.double(), batch["labels"][asked])
        scores = model({"input_ids": text.input_ids})
        kept = text.input_ids == original(batch)
        probability = scores.double().sigmoid()
        detection = -torch.where(kept, probability, 1 - probability).log().mean()

        terms = model.losses(batch)
        assert list(terms) == [
            "auxiliary", "auxiliary_accuracy", "detection", "replaced", "replaced_accuracy", "original_accuracy"
        ]  # fmt: skip
        assert (terms["auxiliary"].sum / terms["auxiliary"].count).item() == pytest.approx(auxiliary.item(), rel=1e-5)
        assert (terms["detection"].sum / terms["detection"].count).item() == pytest.approx(detection.item(), rel=1e-5)
        assert {name: term.weight for name, term in terms.items() if term.weight} == {
            "auxiliary": 1.0,
            "detection": 50.0,
        }
        total = model.training_step(batch, 0).item()
        assert total == pytest.approx((auxiliary + 50 * detection).item(), rel=1e-5)
        said = scores > 0
        assert (terms["replaced"].sum, terms["replaced"].count) == ((~kept).sum(), B * T)
        assert (terms["replaced_accuracy"].sum, terms["replaced_accuracy"].count) == (
            (~kept & ~said).sum(),
            (~kept).sum(),
        )
        assert (terms["original_accuracy"].sum, terms["original_accuracy"].count) == ((kept & said).sum(), kept.sum())
        assert model.perplexity_term == "auxiliary"

    def test_the_weight_of_detection(self) -> None:
        batch = masked_batch()
        losses = [electra(detection_weight=weight).training_step(batch, 0).item() for weight in (1.0, 3.0)]
        terms = electra().losses(batch)
        detection = (terms["detection"].sum / terms["detection"].count).item()
        assert losses[1] - losses[0] == pytest.approx(2 * detection, rel=1e-4)

    def test_padding_changes_no_loss(self) -> None:
        model, batch, width = electra(), masked_batch(), 5
        padded: Any = {
            "input_ids": F.pad(batch["input_ids"], (0, width), value=3),
            "labels": F.pad(batch["labels"], (0, width), value=IGNORED),
            "draws": F.pad(batch["draws"], (0, width)),
            "attention_mask": F.pad(torch.ones(B, T, dtype=torch.int64), (0, width)),
        }
        with torch.no_grad():
            plain, others = model.losses(batch), model.losses(padded)
        for name, term in plain.items():
            other = others[name]
            assert float(other.sum) == pytest.approx(float(term.sum), rel=1e-5), name
            assert int(other.count) == int(term.count), name

    def test_a_sample_of_padding_alone_counts_nowhere(self) -> None:
        model, batch = electra(), masked_batch()
        filled: Any = {name: torch.cat([tensor, tensor[:1]]) for name, tensor in batch.items()}
        filled["labels"][-1] = IGNORED
        filled["attention_mask"] = torch.ones(B + 1, T, dtype=torch.int64)
        filled["attention_mask"][-1] = 0
        with torch.no_grad():
            plain, others = model.losses(batch), model.losses(filled)
        for name, term in plain.items():
            assert float(others[name].sum) == pytest.approx(float(term.sum), rel=1e-5), name

    def test_documents_and_segments_reach_both_networks(self) -> None:
        model, batch = electra({"num_token_types": 2}), masked_batch()
        plain = model.losses(batch)
        halves = (torch.arange(T) >= T // 2).long().expand(B, T)
        for key in ("document_ids", "token_type_ids"):
            other = model.losses({**batch, key: halves})  # type: ignore[misc]
            for term in ("auxiliary", "detection"):
                assert float(other[term].sum) != pytest.approx(float(plain[term].sum), rel=1e-4)


class TestGradients:
    def test_each_loss_reaches_its_own_network_and_what_they_share(self) -> None:
        model, batch = electra({"position": Learned(T, D), "embedding_norm": True}), masked_batch()
        terms = model.losses(batch)
        shared = {
            "backbone.token_embedding.weight",
            "backbone.position.table.weight",
            "backbone.embedding_norm.weight",
            "backbone.embedding_norm.bias",
        }
        of_auxiliary = gradients(model, terms["auxiliary"].sum)
        of_detection = gradients(model, terms["detection"].sum)
        assert shared < of_auxiliary.keys()
        for name in of_auxiliary:
            generates, detects = of_auxiliary[name], of_detection[name]
            if name in shared:
                assert generates is not None and generates.count_nonzero(), name  # noqa: PT018
                assert detects is not None and detects.count_nonzero(), name  # noqa: PT018
            elif name.startswith("auxiliary."):
                assert detects is None, name
                assert generates is not None, name
            else:
                assert generates is None, name
                assert detects is not None, name

    def test_sharing_nothing_divides_them_altogether(self) -> None:
        model = electra(shared="none")
        found = gradients(model, model.losses(masked_batch())["detection"].sum)
        assert {name for name, gradient in found.items() if gradient is not None} == {
            name for name in found if not name.startswith("auxiliary.")
        }

    def test_every_parameter_has_a_part(self) -> None:
        model = electra({"embedding_norm": True, "position": Learned(T, D)})
        found = gradients(model, model.training_step(masked_batch(), 0))
        assert all(gradient is not None for gradient in found.values())


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"auxiliary_depth": 0.5},
            {"auxiliary_width": 1.0},
            {"shared": "tokens"},
            {"shared": "none"},
            {"detection_transform": False},
        ],
    )
    def test_they_change_the_network(self, options: dict[str, Any]) -> None:
        network = {"position": Learned(T, D), "embedding_norm": True}
        sizes = [sum(p.numel() for p in electra(network, **choice).parameters()) for choice in ({}, options)]
        assert sizes[0] != sizes[1]

    def test_published_sizes(self) -> None:
        model = electra({"embedding_size": 16})
        assert model.auxiliary.encoder.hidden_size == D // 4
        assert model.auxiliary.encoder.num_layers == model.backbone.num_layers
        assert model.auxiliary.output_weight.shape == (V, 16)
        assert model.detection_head.dense is not None
        assert model.losses(masked_batch())["detection"].sum > 0

    @pytest.mark.parametrize(
        "position", [NoPosition(), Sinusoidal(), Rotary(), Learned(T, D), Alibi(4), RelativeBias(4, 8, 6)]
    )
    def test_every_position_scheme(self, position: PositionScheme) -> None:
        model = electra({"position": position})
        assert model.training_step(masked_batch(), 0).isfinite()

    def test_flops(self) -> None:
        model, batch = electra({"dropout": 0.1}), masked_batch()
        model.losses(batch)
        share = (batch["labels"] != IGNORED).double().mean().item()
        small, large = model.auxiliary.encoder.flops_per_token(T), model.backbone.flops_per_token(T)
        head = model.auxiliary.head.flops_per_token()
        expected = 4 / 3 * (small + share * head) + large + model.detection_head.flops_per_token()
        assert model.flops_per_token(T) == pytest.approx(expected)
        assert model.eval().flops_per_token(T) == pytest.approx(expected - small / 3)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"sampling": "gumbel"}, "`sampling` must be one of evaluation, training, but is 'gumbel'"),
            ({"detection_weight": 0.0}, r"`detection_weight` must be positive, but is 0\.0; use `objective.det"),
            ({"auxiliary_width": 0.0}, r"`auxiliary_width` must lie in \(0, 1\], but is 0\.0"),
        ],
    )
    def test_out_of_range(self, options: dict[str, Any], sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            electra(**options)

    def test_it_needs_a_bidirectional_backbone(self) -> None:
        causal = Transformer(vocab_size=V, hidden_size=D, num_layers=1, num_heads=2, causal=True)
        with pytest.raises(InputError, match="`ELECTRA` needs a bidirectional backbone"):
            ELECTRA(causal)

    def test_a_missing_key_is_told(self) -> None:
        batch: Any = masked_batch()
        del batch["draws"]
        with pytest.raises(InputError, match="`ELECTRA` needs `draws` in a batch"):
            electra().training_step(batch, 0)
