"""COCO-LM: its losses by their definitions, where gradients flow, and what each option changes."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from lmmodules.batch import IGNORED, CorrectionBatch
from lmmodules.errors import InputError
from lmmodules.models import Alibi, Learned, NoPosition, PositionScheme, RelativeBias, Rotary, Sinusoidal, Transformer
from lmmodules.objectives import ELECTRA, CocoLM

B, T, C, D, V, MASK = 4, 12, 9, 32, 41, 40


def backbone(**options: Any) -> Transformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": V, "hidden_size": D, "num_layers": 3, "num_heads": 4, "initializer_std": 0.2, "pre_norm": False,
        "embedding_norm": True, "position": RelativeBias(4, 8, 6, Learned(T + 8, D)),
    }  # fmt: skip
    return Transformer(causal=False, **(sizes | options))


def coco_lm(network: dict[str, Any] | None = None, **options: Any) -> CocoLM:
    model = CocoLM(backbone(**(network or {})), **options)
    if model.correction_head is not None:  # zero as initialised, which would hide it
        torch.nn.init.normal_(model.correction_head.bias)  # type: ignore[arg-type]
    return model


def views(number: int = B, seed: int = 2) -> CorrectionBatch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(MASK, (number, T), generator=generator)
    chosen = torch.rand(number, T, generator=generator) < 0.3
    chosen[:, 0] = False
    chosen[:, 1] = True
    return {
        "input_ids": ids.masked_fill(chosen, MASK),
        "labels": torch.where(chosen, ids, IGNORED),
        "draws": torch.rand(number, T, generator=generator),
        "crop_ids": torch.cat([ids[:, :1], ids[:, 3 : C + 2]], 1),
    }


def original(batch: CorrectionBatch) -> Tensor:
    return torch.where(batch["labels"] == IGNORED, batch["input_ids"], batch["labels"])


def means(model: CocoLM, batch: CorrectionBatch) -> dict[str, float]:
    with torch.no_grad():
        return {name: float(term.sum) / max(float(term.count), 1.0) for name, term in model.losses(batch).items()}


def gradients(model: CocoLM, value: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    value.backward(retain_graph=True)
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


SHARED = {
    "backbone.token_embedding.weight",
    "backbone.position.absolute.table.weight",
    "backbone.embedding_norm.weight",
    "backbone.embedding_norm.bias",
}
OWN_HEADS = {"detection_head", "correction_head", "sequence_head"}


class TestLosses:
    @pytest.mark.parametrize("form", ["weighted", "mixture"])
    def test_they_are_those_of_the_definition(self, form: Any) -> None:
        model, batch = coco_lm(clm_form=form, temperature=0.5), views()
        assert model.correction_head is not None
        text, _ = model.corrupt(batch)
        asked = batch["labels"] != IGNORED
        hidden = model.backbone(text.input_ids)
        kept = text.input_ids == original(batch)
        copy = model.detection_head(hidden).double().sigmoid()
        expected = {"copy": -torch.where(kept, copy, 1 - copy).log().mean()}

        logits = hidden[asked] @ model.backbone.token_embedding.weight.T + model.correction_head.bias
        written = logits.double().softmax(-1).gather(1, batch["labels"][asked][:, None])[:, 0]
        p = copy[asked]
        if form == "weighted":
            expected["correction"] = -((1 - p) * written.log()).mean()
        else:
            expected["correction"] = -(kept[asked] * p + (1 - p) * written).log().mean()
        expected["correction_nats"] = -written.log().mean()

        first = model.sequence_head(hidden[:, 0])  # type: ignore[misc]
        second = model.sequence_head(model.backbone(batch["crop_ids"])[:, 0])  # type: ignore[misc]
        everyone = torch.cat([first, second]).double()
        cosines = everyone @ everyone.T
        rows = []
        for row in range(2 * B):
            others = torch.cat([cosines[row, :row], cosines[row, row + 1 :]]) / 0.5
            rows.append(others.logsumexp(0) - cosines[row, (row + B) % (2 * B)] / 0.5)
        expected["contrast"] = torch.stack(rows).mean()
        expected["similarity"] = (first * second).sum(-1).mean()

        found = means(model, batch)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value.item(), rel=1e-5), name
        total = found["auxiliary"] + 50 * found["copy"] + found["correction"] + found["contrast"]
        assert model.training_step(batch, 0).item() == pytest.approx(total, rel=1e-5)

    def test_accuracies(self) -> None:
        model, batch = coco_lm(), views(16)
        assert model.correction_head is not None
        text, _ = model.corrupt(batch)
        asked = (batch["labels"] != IGNORED).flatten()
        hidden = model.backbone(text.input_ids).flatten(0, 1)
        copies = model.detection_head(hidden) > 0
        best = model.correction_head(hidden, model.backbone.token_embedding.weight).argmax(-1)
        kept = text.originals
        right = best == original(batch).flatten()
        terms = model.losses(batch)
        for name, hit, among in (
            ("replaced", ~kept, torch.ones_like(kept)),
            ("replaced_accuracy", ~copies, ~kept),
            ("original_accuracy", copies, kept),
            ("correction_accuracy", right, asked & ~kept),
            ("copy_accuracy", copies, asked & kept),
        ):
            assert int(terms[name].sum) == (hit & among).sum(), name
            assert int(terms[name].count) == among.sum() > 0, name
            assert terms[name].weight == 0

    def test_untrained_losses_are_those_of_knowing_nothing(self) -> None:
        torch.manual_seed(0)
        size, number, length = 1000, 16, 32
        network = Transformer(
            vocab_size=size, hidden_size=64, num_layers=3, num_heads=4, causal=False, position=RelativeBias(4),
            pre_norm=False, embedding_norm=True,
        )  # fmt: skip
        ids = torch.randint(size, (number, length))
        ids[:, 0] = 0  # the same start for all
        chosen = torch.rand(number, length) < 0.15
        chosen[:, 0] = False
        batch: CorrectionBatch = {
            "input_ids": ids.masked_fill(chosen, 4), "labels": torch.where(chosen, ids, IGNORED),
            "draws": torch.rand(number, length), "crop_ids": ids[:, :29],
        }  # fmt: skip
        found = means(CocoLM(network), batch)
        assert found["auxiliary"] == pytest.approx(math.log(size), rel=0.02)
        assert found["copy"] == pytest.approx(math.log(2), rel=0.1)
        assert found["correction"] == pytest.approx(0.5 * math.log(size), rel=0.1)
        assert found["contrast"] == pytest.approx(math.log(2 * number - 1), rel=0.05)
        assert found["negatives"] == 2 * number - 2

    def test_padding_changes_no_loss(self) -> None:
        model, batch, width = coco_lm(), views(), 5
        padded: Any = {
            "input_ids": F.pad(batch["input_ids"], (0, width), value=3),
            "labels": F.pad(batch["labels"], (0, width), value=IGNORED),
            "draws": F.pad(batch["draws"], (0, width)),
            "attention_mask": F.pad(torch.ones(B, T, dtype=torch.int64), (0, width)),
            "crop_ids": F.pad(batch["crop_ids"], (0, width), value=3),
            "crop_attention_mask": F.pad(torch.ones(B, C, dtype=torch.int64), (0, width)),
        }
        assert means(model, padded) == pytest.approx(means(model, batch), rel=1e-5)

    def test_a_sample_of_padding_alone_counts_nowhere(self) -> None:
        model, batch = coco_lm(), views()
        filled: Any = {name: torch.cat([tensor[:1], tensor]) for name, tensor in batch.items()}
        filled["labels"][0] = IGNORED
        filled["attention_mask"] = torch.ones(B + 1, T, dtype=torch.int64)
        filled["attention_mask"][0] = 0
        assert means(model, filled) == pytest.approx(means(model, batch), rel=1e-5)

    def test_documents_of_the_crop_are_kept_apart_too(self) -> None:
        model, batch = coco_lm(), views()
        documents: Any = {
            **batch,
            "document_ids": torch.zeros(B, T, dtype=torch.int64),
            "crop_document_ids": (torch.arange(C) >= 4).long().expand(B, C),
        }
        changed = {**documents, "crop_ids": batch["crop_ids"].clone()}
        changed["crop_ids"][:, 4:] = (changed["crop_ids"][:, 4:] + 1) % MASK
        assert means(model, changed) == pytest.approx(means(model, documents), rel=1e-6)
        assert means(model, documents)["contrast"] != pytest.approx(means(model, batch)["contrast"], rel=1e-4)


class TestGradients:
    """Where the paper says that they flow, and exactly none where it says that they do not."""

    def flows(self, name: str, **options: Any) -> dict[str, Tensor | None]:
        model = coco_lm(**options)
        return gradients(model, model.losses(views())[name].sum)

    @staticmethod
    def reached(found: dict[str, Tensor | None]) -> set[str]:
        return {
            name.split(".")[0]
            for name, g in found.items()
            if g is not None and g.count_nonzero() and name not in SHARED
        }

    @pytest.mark.parametrize("form", ["weighted", "mixture"])
    @pytest.mark.parametrize(
        ("term", "parts"),
        [
            ("auxiliary", {"auxiliary"}),
            ("copy", {"backbone", "detection_head"}),
            ("correction", {"backbone", "correction_head"}),
            ("contrast", {"backbone", "sequence_head"}),
        ],
    )
    def test_which_parts_a_loss_trains(self, term: str, parts: set[str], form: str) -> None:
        found = self.flows(term, clm_form=form)
        assert self.reached(found) == parts
        for name in SHARED:
            gradient = found[name]
            assert gradient is not None, name
            assert gradient.count_nonzero(), name
        for name, gradient in found.items():
            if name not in SHARED and name.split(".")[0] not in parts:
                assert gradient is None, name

    def test_correction_does_not_train_the_copy_head_nor_the_states_through_it(self) -> None:
        """With the copy probability a number, the gradient of the states is that of the head's cross-entropies."""
        model, batch = coco_lm(), views()
        assert model.correction_head is not None
        text, _ = model.corrupt(batch)
        hidden = model.backbone(text.input_ids).flatten(0, 1).detach().requires_grad_()
        copy_logits = model.detection_head(hidden)
        total = model.correct(model.correction_head, hidden, copy_logits, text)["correction"].sum
        (found,) = torch.autograd.grad(total, hidden)
        logits = model.correction_head(hidden[text.rows], model.backbone.token_embedding.weight)
        weights = 1 - copy_logits[text.rows].detach().sigmoid()
        (expected,) = torch.autograd.grad(
            (weights * F.cross_entropy(logits, text.labels, reduction="none")).sum(), hidden
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    def test_both_views_train_the_backbone(self) -> None:
        model, batch = coco_lm(), views()
        for detached in (0, 1):
            states = list(model_states(model, batch))
            states[detached] = states[detached].detach()
            assert model.sequence_head is not None
            total = model.contrast(model.sequence_head(torch.stack(states)))["contrast"].sum
            assert self.reached(gradients(model, total)) == {"backbone", "sequence_head"}

    @pytest.mark.parametrize("options", [{}, {"clm": False}, {"scl": False}, {"clm": False, "scl": False}])
    def test_every_parameter_has_a_part_in_every_step(self, options: dict[str, bool]) -> None:
        model, batch = coco_lm(**options), views()
        found = gradients(model, model.training_step(batch, 0))
        assert all(gradient is not None for gradient in found.values())
        batch["labels"] = torch.full((B, T), IGNORED)  # not a single mask
        found = gradients(model, model.training_step(batch, 0))
        assert all(gradient is not None and gradient.isfinite().all() for gradient in found.values())

    def test_the_tables_of_relative_positions_are_two(self) -> None:
        model = coco_lm()
        tables = [name for name, _ in model.named_parameters() if name.endswith("position.table.weight")]
        assert tables == ["backbone.position.table.weight", "auxiliary.encoder.position.table.weight"]
        assert [name for name, p in model.named_parameters() if p.shape == (V, D)] == [
            "backbone.token_embedding.weight"
        ]


def model_states(model: CocoLM, batch: CorrectionBatch) -> tuple[Tensor, Tensor]:
    text, _ = model.corrupt(batch)
    return model.backbone(text.input_ids)[:, 0], model.backbone(batch["crop_ids"])[:, 0]


class TestViews:
    @pytest.mark.parametrize("padded", [False, True])
    def test_one_forward_gives_what_two_give(self, padded: bool) -> None:
        batch: Any = views()
        if padded:
            batch["attention_mask"] = torch.ones(B, T, dtype=torch.int64)
            batch["attention_mask"][1, 9:] = 0
            batch["crop_attention_mask"] = torch.ones(B, C, dtype=torch.int64)
            batch["crop_attention_mask"][1, 7:] = 0
            batch["document_ids"] = (torch.arange(T) >= 5).long().expand(B, T)
            batch["crop_document_ids"] = (torch.arange(C) >= 4).long().expand(B, C)
            batch["token_type_ids"] = (torch.arange(T) >= 5).long().expand(B, T)
            batch["labels"][1, 9:] = IGNORED
        network = {"num_token_types": 2}
        apart, together = coco_lm(network), coco_lm(network, joint_forward=True)
        together.load_state_dict(apart.state_dict())
        assert means(together, batch) == pytest.approx(means(apart, batch), rel=1e-5)
        calls: list[int] = []
        for model in (apart, together):
            model.backbone.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[attr-defined]
        expected = gradients(apart, apart.training_step(batch, 0))
        assert len(calls) == 2
        found = gradients(together, together.training_step(batch, 0))
        assert len(calls) == 3
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)

    def test_the_mask_is_never_read_by_the_backbone(self) -> None:
        model, batch, seen = coco_lm(), views(), []
        with torch.no_grad():
            model.auxiliary.head.bias[MASK] = -1e4  # type: ignore[index]
        model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[attr-defined]
        model.losses(batch)
        assert [tuple(ids.shape) for ids in seen] == [(B, T), (B, C)]
        assert not any((ids == MASK).any() for ids in seen)


class TestOptions:
    def test_without_both_it_is_replaced_token_detection(self) -> None:
        model, batch = coco_lm(clm=False, scl=False), views()
        other = ELECTRA(
            backbone(), auxiliary_depth=1 / 3, auxiliary_width=1.0, detection_transform=False, detection_weight=50.0
        )
        assert set(other.state_dict()) == set(model.state_dict())
        other.load_state_dict(model.state_dict())
        found = means(model, batch)
        expected = {name: (term.sum / term.count).item() for name, term in other.losses(batch).items()}
        expected["copy"] = expected.pop("detection")
        assert found == pytest.approx(expected, rel=1e-6)
        assert model.training_step(batch, 0).item() == pytest.approx(other.training_step(batch, 0).item(), rel=1e-6)

    @pytest.mark.parametrize(
        ("option", "terms"),
        [
            ({"clm": False}, {"correction", "correction_nats", "correction_accuracy", "copy_accuracy"}),
            ({"scl": False}, {"contrast", "similarity", "retrieval_accuracy", "negatives"}),
        ],
    )
    def test_what_is_switched_off_is_gone(self, option: dict[str, bool], terms: set[str]) -> None:
        batch = views()
        whole, less = means(coco_lm(), batch), means(coco_lm(**option), batch)
        assert whole.keys() - less.keys() == terms
        assert {"auxiliary", "copy", "replaced_accuracy", "original_accuracy"} < less.keys()

    @pytest.mark.parametrize(
        ("option", "term"),
        [
            ({"copy_weight": 7.0}, "copy"),
            ({"scl_weight": 7.0}, "contrast"),
        ],
    )
    def test_weights(self, option: dict[str, float], term: str) -> None:
        batch = views()
        before, after = coco_lm().training_step(batch, 0), coco_lm(**option).training_step(batch, 0)
        default = 50.0 if term == "copy" else 1.0
        assert (after - before).item() == pytest.approx((7.0 - default) * means(coco_lm(), batch)[term], rel=1e-3)

    def test_the_two_forms_differ(self) -> None:
        batch = views()
        forms = [coco_lm(clm_form=form) for form in ("weighted", "mixture")]
        losses = [means(model, batch)["correction"] for model in forms]
        assert losses[1] > losses[0] + 0.1
        assert forms[0].clm_form == coco_lm().clm_form == "weighted"
        flows = [gradients(model, model.losses(batch)["correction"].sum)["correction_head.bias"] for model in forms]
        assert flows[0] is not None
        assert flows[1] is not None
        # The mixture trains a replaced position in full.
        assert flows[1].norm() > 1.2 * flows[0].norm()

    def test_the_temperature_and_the_size_of_the_vector(self) -> None:
        batch = views()
        assert means(coco_lm(temperature=0.1), batch)["contrast"] != means(coco_lm(), batch)["contrast"]
        model = coco_lm(scl_size=5)
        assert model.sequence_head is not None
        assert model.sequence_head(torch.zeros(2, D)).shape == (2, 5)

    def test_a_layer_before_the_copy_logit(self) -> None:
        assert coco_lm().detection_head.dense is None
        assert coco_lm(detection_transform=True).detection_head.dense is not None

    def test_defaults_are_the_published_base(self) -> None:
        model = CocoLM(backbone(num_layers=12))
        assert model.auxiliary.encoder.num_layers == 4
        assert model.auxiliary.encoder.hidden_size == D
        assert {name: term.weight for name, term in model.losses(views()).items() if term.weight} == {
            "auxiliary": 1.0, "copy": 50.0, "correction": 1.0, "contrast": 1.0
        }  # fmt: skip

    def test_gathering_in_one_process_changes_nothing(self) -> None:
        batch = views()
        assert means(coco_lm(gather_negatives=True), batch) == means(coco_lm(), batch)

    @pytest.mark.parametrize(
        "position", [NoPosition(), Sinusoidal(), Rotary(), Learned(T, D), Alibi(4), RelativeBias(4, 8, 6)]
    )
    @pytest.mark.parametrize("joint_forward", [False, True])
    def test_every_position_scheme(self, position: PositionScheme, joint_forward: bool) -> None:
        model = coco_lm({"position": position}, joint_forward=joint_forward)
        assert model.training_step(views(), 0).isfinite()

    @pytest.mark.parametrize(
        "network",
        [{"pre_norm": True}, {"norm": "rms_norm", "activation": "swiglu", "bias": False}, {"num_kv_heads": 2}],
    )
    def test_every_kind_of_backbone(self, network: dict[str, Any]) -> None:
        assert coco_lm(network).training_step(views(), 0).isfinite()

    def test_a_warm_start_is_shared(self) -> None:
        trained, model = backbone(), coco_lm()
        torch.nn.init.normal_(trained.token_embedding.weight)
        model.backbone.load_state_dict(trained.state_dict())  # type: ignore[attr-defined]
        assert torch.equal(model.auxiliary.output_weight, trained.token_embedding.weight)

    def test_flops(self) -> None:
        model, batch = coco_lm(), views()
        model.losses(batch)
        share = (batch["labels"] != IGNORED).double().mean().item()
        less = coco_lm(clm=False, scl=False)
        less.masked_share = share
        head = 2 * D * V
        crop = C / T * model.backbone.flops_per_token(C)
        expected = less.flops_per_token(T) + 4 / 3 * share * head + crop + 2 / T * 2 * D * D
        assert model.flops_per_token(T) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"copy_weight": 0.0}, r"`copy_weight` must be positive, but is 0\.0; use `objective\.copy_weight=50`"),
            ({"clm_form": "A"}, "`clm_form` must be one of weighted, mixture, but is 'A'"),
            ({"scl_weight": -1.0}, r"`scl_weight` must be positive, but is -1\.0; use `objective\.scl=false`"),
            ({"temperature": 0.0}, r"`temperature` must be positive, but is 0\.0; use `objective\.temperature=1`"),
            ({"scl_size": 0}, "`scl_size` must be at least 1, but is 0"),
        ],
    )
    def test_out_of_range(self, options: dict[str, Any], sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            coco_lm(**options)

    def test_backbones_that_do_not_fit(self) -> None:
        causal = Transformer(vocab_size=V, hidden_size=D, num_layers=1, num_heads=2, causal=True)
        with pytest.raises(InputError, match="`CocoLM` needs a bidirectional backbone"):
            CocoLM(causal)

    @pytest.mark.parametrize("form", ["weighted", "mixture"])
    def test_embeddings_of_another_size_than_hidden_states(self, form: str) -> None:
        model, batch = coco_lm({"embedding_size": 16, "position": NoPosition()}, clm_form=form), views()
        head = model.correction_head
        assert head is not None
        assert coco_lm().correction_head.dense is None  # type: ignore[union-attr]
        text, _ = model.corrupt(batch)
        hidden = model.backbone(text.input_ids).flatten(0, 1)
        # By hand: dense, GELU and LayerNorm go from 32 to 16, the embedding and the bias to the vocabulary.
        states = hidden[text.rows].double()
        dense, norm = head.dense.double(), head.norm.double()  # type: ignore[union-attr]
        features = states @ dense.weight.T + dense.bias
        features = features * (1 + torch.erf(features / 2**0.5)) / 2
        centred = features - features.mean(-1, keepdim=True)
        features = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias
        written = features @ model.backbone.token_embedding.weight.double().T + head.bias.double()  # type: ignore[union-attr]
        nats = written.logsumexp(-1) - written.gather(1, text.labels[:, None])[:, 0]
        head.float()
        found = means(model, batch)
        assert found["correction_nats"] == pytest.approx(nats.mean().item(), rel=1e-5)
        assert all(gradient is not None for gradient in gradients(model, model.training_step(batch, 0)).values())


def fit(model: CocoLM, batches: list[Any], data: L.LightningDataModule | None = None, **trainer: Any) -> L.Trainer:
    fitted = L.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", **trainer,
    )  # fmt: skip
    fitted.fit(model, data or DataLoader(batches, batch_size=None))
    return fitted


@pytest.mark.filterwarnings("ignore")
class TestTraining:
    def test_a_batch_of_one_is_refused_at_the_start(self) -> None:
        class OneByOne(L.LightningDataModule):
            batch_size = 1
            batch_type = CorrectionBatch

            def train_dataloader(self) -> DataLoader[Any]:
                raise AssertionError("too late")

        sentence = "`data.batch_size` must be at least 2 with `objective.scl=true`.* but is 1; use `data.batch_size=8`"
        with pytest.raises(InputError, match=sentence):
            fit(coco_lm(), [], OneByOne())
        with pytest.raises(InputError, match=sentence):  # of a loader that does not say
            fit(coco_lm(), [views(1)])
        fit(coco_lm(scl=False), [views(1)])

    def test_a_last_batch_of_one_is_no_reason_to_stop(self) -> None:
        model = coco_lm()
        fit(model, [views(), views(1)])
        assert model.training_totals.collect()["negatives"] == pytest.approx((8 * 6 + 2 * 0) / 10)

    def test_accumulated_batches_of_different_sizes(self) -> None:
        model = coco_lm()
        fit(model, [views(2), views(5)], accumulate_grad_batches=2)
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())

    @pytest.mark.slow
    def test_it_learns_to_correct_what_a_network_that_knows_nothing_writes(self) -> None:
        """A language of 32 symbols, each mostly followed by the same one; the auxiliary model is kept from learning."""
        torch.manual_seed(0)
        symbols, length, number, steps = 32, 24, 32, 150
        following = torch.randperm(symbols)
        network = Transformer(
            vocab_size=symbols + 1, hidden_size=48, num_layers=2, num_heads=4, causal=False, max_length=length,
            position=RelativeBias(4, 8, 16, Learned(length, 48)), pre_norm=False, embedding_norm=True,
            initializer_std=0.09,
        )  # fmt: skip
        model = CocoLM(network, auxiliary_depth=0.5, shared="none", clm_form="mixture", temperature=0.5)
        assert model.correction_head is not None
        learners = [p for name, p in model.named_parameters() if not name.startswith("auxiliary.")]
        optimizer = torch.optim.AdamW(learners, lr=3e-3)

        def sample() -> CorrectionBatch:
            ids = torch.empty(number, length, dtype=torch.int64)
            ids[:, 0] = torch.randint(symbols, (number,))
            for place in range(1, length):
                restart = torch.rand(number) < 0.1
                ids[:, place] = torch.where(restart, torch.randint(symbols, (number,)), following[ids[:, place - 1]])
            chosen = torch.rand(number, length) < 0.15
            return {
                "input_ids": ids.masked_fill(chosen, symbols), "labels": torch.where(chosen, ids, IGNORED),
                "draws": torch.rand(number, length), "crop_ids": ids[:, 1:22],
            }  # fmt: skip

        for _ in range(steps):
            optimizer.zero_grad()
            model.training_step(sample(), 0).backward()
            optimizer.step()
        found = means(model.eval(), sample())
        rate = found["replaced"]
        assert found["copy"] < 0.8 * -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
        assert found["replaced_accuracy"] > 0.3
        assert found["original_accuracy"] > 0.95
        assert found["correction_nats"] < 3.2
        assert found["retrieval_accuracy"] > 5 / (2 * number)
