"""CLINE: its losses by their definitions and by known numbers, where gradients flow, and what each option changes."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from lmmodules.batch import IGNORED
from lmmodules.errors import InputError
from lmmodules.losses import binary_contrast, hard_negative_cross_entropy, task_uncertainty
from lmmodules.models import Alibi, Learned, NoPosition, PositionScheme, RelativeBias, Rotary, Sinusoidal, Transformer
from lmmodules.objectives.cline import CLINE, TASKS
from lmmodules.replacement_batch import ReplacementBatch

B, T, D, V, MASK = 4, 10, 16, 31, 30
ORIGINAL = torch.tensor([[0.5, -0.2, 0.1], [0.3, 0.3, 0.3]])
SYNONYM = torch.tensor([[0.4, -0.1, 0.2], [0.1, 0.2, 0.3]])
ANTONYM = torch.tensor([[-0.5, 0.2, 0.0], [0.3, 0.3, -0.3]])
RELEASED: dict[str, Any] = {"contrast_form": "binary", "similarity": "mean", "pooled": True}


def cline(network: dict[str, Any] | None = None, **options: Any) -> CLINE:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": V, "hidden_size": D, "num_layers": 2, "num_heads": 4, "initializer_std": 0.2,
        "position": Learned(T, D),
    }  # fmt: skip
    return CLINE(Transformer(causal=False, **(sizes | (network or {}))), **options)


def texts(number: int = B, seed: int = 1) -> ReplacementBatch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(MASK, (number, T), generator=generator)
    masked = torch.rand(number, T, generator=generator) < 0.3
    masked[:, 1] = True
    batch: Any = {
        "input_ids": ids.masked_fill(masked, MASK),
        "labels": torch.where(masked, ids, IGNORED),
        "contrasted": torch.ones(number, dtype=torch.int64),
    }
    for view, label in (("positive", 1), ("negative", 2)):
        asked = torch.where(torch.rand(number, T, generator=generator) < 0.5, label, 0)
        asked[:, ::3] = IGNORED
        asked[:, 1:3] = torch.tensor([0, label])
        attention = torch.ones(number, T, dtype=torch.int64)
        attention[0, -2:] = 0
        asked[0, -2:] = IGNORED
        changed = torch.where(asked > 0, torch.randint(MASK, (number, T), generator=generator), ids)
        batch |= {f"{view}_ids": changed, f"{view}_labels": asked, f"{view}_attention_mask": attention}
    found: ReplacementBatch = batch
    return found


def means(model: CLINE, batch: ReplacementBatch) -> dict[str, float]:
    with torch.no_grad():
        return {name: float(term.sum) / max(float(term.count), 1.0) for name, term in model.losses(batch).items()}


class TestPublishedNumbers:
    def test_binary(self) -> None:
        def loss(one: Tensor, near: Tensor, far: Tensor) -> float:
            return float(binary_contrast((one * near).mean(-1), (one * far).mean(-1))) / len(one)

        ones = torch.ones(2, 3)
        assert loss(ORIGINAL, SYNONYM, ANTONYM) == pytest.approx(0.667946, abs=1e-6)
        assert loss(ones, ones, -ones) == pytest.approx(0.313262, abs=1e-6)
        assert loss(ones, 0 * ones, 0 * ones) == pytest.approx(math.log(2))
        assert loss(ones, -ones, ones) == pytest.approx(1.313262, abs=1e-6)

    def test_softmax(self) -> None:
        near, far = (ORIGINAL * SYNONYM).sum(-1), (ORIGINAL * ANTONYM).sum(-1)
        assert float(hard_negative_cross_entropy(near, far[:, None])) / 2 == pytest.approx(0.556008, abs=1e-6)
        assert float(hard_negative_cross_entropy(near, near[:, None])) / 2 == pytest.approx(math.log(2))

    def test_softmax_over_several(self) -> None:
        near, far = torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 0.1], [3.0, -1.0]])
        expected = F.cross_entropy(torch.cat([near[:, None], far], 1), torch.zeros(2).long(), reduction="sum")
        assert float(hard_negative_cross_entropy(near, far)) == pytest.approx(expected.item())

    def test_large_similarities_are_finite(self) -> None:
        near = torch.tensor([-700.0], requires_grad=True)
        loss = hard_negative_cross_entropy(near, torch.tensor([[700.0]]))
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.item() == 1400
        assert near.grad is not None
        assert near.grad.item() == -1

    def test_learned_weights(self) -> None:
        losses = torch.tensor([7.0, 0.9, 0.69])
        start = torch.zeros(3, requires_grad=True)
        weights, penalty = task_uncertainty(start)
        total = (weights * losses).sum() + penalty
        assert total.item() == pytest.approx(losses.sum().item())
        total.backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(start.grad, torch.tensor([-6.0, 0.1, 0.31]))

        trained = torch.zeros(3, requires_grad=True)
        optimizer = torch.optim.Adam([trained], lr=1e-2)
        for step in range(1500):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 1500)
            optimizer.zero_grad()
            weights, penalty = task_uncertainty(trained)
            ((weights * losses).sum() + penalty).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        torch.testing.assert_close(trained.detach().neg().exp(), torch.tensor([1 / 7, 1.0, 1.0]), atol=1e-2, rtol=0)


class TestLosses:
    @pytest.mark.parametrize("options", [{}, RELEASED, {"similarity": "cosine", "temperature": 0.1}])
    def test_they_are_those_of_the_definition(self, options: dict[str, Any]) -> None:
        model, batch = cline(learned_weights=False, **options), texts()
        first, expected_rows, expected_labels = [], [], []
        for name in ("input", "positive", "negative"):  # one after the other, where the model reads all at once
            mask = batch.get(f"{name}_attention_mask")
            hidden = model.backbone(batch[f"{name}_ids"], attention_mask=mask)  # type: ignore[literal-required]
            first.append(hidden[:, 0])
            if name == "input":
                asked = batch["labels"] != IGNORED
                logits = model.logits(hidden[asked])
                masked_lm = F.cross_entropy(logits, batch["labels"][asked])
            else:
                labels = batch[f"{name}_labels"]  # type: ignore[literal-required]
                expected_rows.append(model.detection_head(hidden)[labels != IGNORED])
                expected_labels.append(labels[labels != IGNORED])
        detection = F.cross_entropy(torch.cat(expected_rows), torch.cat(expected_labels))
        if options.get("pooled"):
            first = [torch.tanh(model.pooler(state)) for state in first]  # type: ignore[misc]
        if options == RELEASED:
            near, far = ((first[0] * view).mean(-1) for view in first[1:])
            chances = torch.cat([near, far]).sigmoid()
            contrast = F.binary_cross_entropy(chances, torch.tensor([1.0] * B + [0.0] * B))
        elif options:
            near, far = (F.cosine_similarity(first[0], view) / 0.1 for view in first[1:])
            contrast = F.softplus(far - near).mean()
        else:
            near, far = ((first[0] * view).sum(-1) for view in first[1:])
            contrast = F.softplus(far - near).mean()
        found = means(model, batch)
        assert found["masked_lm"] == pytest.approx(masked_lm.item(), rel=1e-5)
        assert found["detection"] == pytest.approx(detection.item(), rel=1e-5)
        assert found["contrast"] == pytest.approx(contrast.item(), rel=1e-4, abs=1e-6)
        assert found["nearer"] == pytest.approx((near > far).float().mean().item())
        total = masked_lm + detection + contrast
        assert model.training_step(batch, 0).item() == pytest.approx(total.item(), rel=1e-5)

    def test_untrained_detection_knows_nothing(self) -> None:
        model = cline({"initializer_std": 0.02})
        assert means(model, texts())["detection"] == pytest.approx(math.log(3), abs=0.05)
        assert means(cline({"initializer_std": 0.02}, detection_classes=2), texts())["detection"] == pytest.approx(
            math.log(2), abs=0.05
        )

    @pytest.mark.parametrize("classes", [3, 2])
    def test_f1_by_class(self, classes: int) -> None:
        model, batch = cline(detection_classes=classes), texts(12)
        labels = torch.cat([batch["positive_labels"], batch["negative_labels"]])
        mask = torch.cat([batch["positive_attention_mask"], batch["negative_attention_mask"]])
        hidden = model.backbone(torch.cat([batch["positive_ids"], batch["negative_ids"]]), attention_mask=mask)
        said = model.detection_head(hidden[labels != IGNORED]).argmax(-1).tolist()
        truth = labels[labels != IGNORED].clamp(max=classes - 1).tolist()
        found = means(model, batch)
        names = ("unchanged", "kept", "changed") if classes == 3 else ("unchanged", "replaced")
        assert {name for name in found if name.endswith("_f1")} == {f"{name}_f1" for name in names}
        for number, name in enumerate(names):
            hits = sum(one == other == number for one, other in zip(said, truth, strict=True))
            precision, recall = hits / max(said.count(number), 1), hits / truth.count(number)
            f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
            assert found[f"{name}_f1"] == pytest.approx(f1), name
        assert 0 < found["unchanged_f1"] < 1

    def test_opposites_are_told_apart(self) -> None:
        model, batch = cline(), texts(12)
        assert "nearer_than_opposite" not in means(model, batch)
        batch["contrasted"][0] = 0
        batch["opposed"] = (torch.arange(12) < 5).long()
        few: Any = {name: tensor[1:5] for name, tensor in batch.items()}
        with torch.no_grad():
            term, alone = model.losses(batch)["nearer_than_opposite"], model.losses(few)["nearer"]
        assert (int(term.sum), int(term.count)) == (int(alone.sum), 4)
        assert term.weight == 0

    def test_accuracies_by_class(self) -> None:
        model, batch = cline(), texts(16)
        terms = model.losses(batch)
        labels = torch.cat([batch["positive_labels"], batch["negative_labels"]])
        for label, name in enumerate(("unchanged", "kept", "changed")):
            assert int(terms[f"{name}_accuracy"].count) == (labels == label).sum()
        assert int(terms["replaced"].sum) == (labels > 0).sum()

    def test_views_that_equal_their_text_are_not_contrasted(self) -> None:
        model, batch = cline(), texts()
        some = texts()
        some["contrasted"] = torch.tensor([1, 0, 1, 0])
        assert model.losses(some)["contrast"].count == 2
        some["contrasted"] = torch.zeros(B, dtype=torch.int64)
        assert model.training_step(some, 0).isfinite()
        assert model.training_step(batch, 0).isfinite()

    def test_no_label_anywhere_is_no_nan(self) -> None:
        model, batch = cline(), texts()
        for name in ("labels", "positive_labels", "negative_labels"):
            batch[name] = torch.full((B, T), IGNORED)  # type: ignore[literal-required]
        batch["contrasted"] = torch.zeros(B, dtype=torch.int64)
        loss = model.training_step(batch, 0)
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.item() == 0

    def test_a_text_is_compared_with_its_own_views_alone_unless_asked(self) -> None:
        def alone(model: CLINE) -> float:
            batch = texts()
            together = float(model.losses(batch)["contrast"].sum.detach())
            apart = sum(
                float(
                    model.losses({name: value[row : row + 1] for name, value in batch.items()})["contrast"].sum.detach()
                )  # type: ignore[index,typeddict-item,misc]
                for row in range(B)
            )
            return together - apart

        assert alone(cline().eval()) == pytest.approx(0, abs=1e-4)
        assert alone(cline(batch_negatives=True).eval()) > 0.01

    def test_documents_do_not_see_each_other(self) -> None:
        model, batch = cline(), texts()
        document_ids = (torch.arange(T) > 4).long().expand(B, T)
        names = ("document_ids", "positive_document_ids", "negative_document_ids")
        apart: Any = {**batch, **dict.fromkeys(names, document_ids)}
        assert means(model, apart)["contrast"] != means(model, batch)["contrast"]
        beyond = {**apart, "positive_ids": apart["positive_ids"].clone()}
        beyond["positive_ids"][:, 6:] = 0
        assert means(model, beyond)["contrast"] == pytest.approx(means(model, apart)["contrast"], rel=1e-5)


class TestGradients:
    @pytest.mark.parametrize(
        ("task", "heads"),
        [("masked_lm", {"head"}), ("detection", {"detection_head"}), ("contrast", {"pooler"})],
    )
    def test_each_loss_trains_the_backbone_and_its_own_head(self, task: str, heads: set[str]) -> None:
        model = cline(learned_weights=False, **RELEASED)
        model.losses(texts())[task].sum.backward()
        trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        untouched = {"head", "detection_head", "pooler"} - heads
        assert trained == {"backbone", *heads}
        assert all(p.grad is None for name in untouched for p in getattr(model, name).parameters())

    def test_watched_terms_train_nothing(self) -> None:
        model = cline()
        terms = model.losses(texts())
        optimised = {name for name, term in terms.items() if term.weight}
        assert optimised == {*(f"{task}_weighted" for task in TASKS), "weight_penalty"}
        model.training_step(texts(), 0).backward()  # type: ignore[no-untyped-call]
        found = means(model, texts())
        assert model.log_variances is not None
        assert model.log_variances.grad is not None
        expected = [1 - found[task] for task in TASKS]
        torch.testing.assert_close(model.log_variances.grad, torch.tensor(expected), rtol=1e-4, atol=1e-4)

    def test_log_variances_are_not_decayed(self) -> None:
        model = cline(optimizer=lambda groups: torch.optim.AdamW(groups, weight_decay=0.1))
        groups = model.configure_optimizers().param_groups
        (own,) = [group for group in groups if any(p is model.log_variances for p in group["params"])]
        assert own["weight_decay"] == 0


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"masked_lm_weight": 2.0},
            {"detection_weight": 2.0},
            {"contrast_weight": 2.0},
            {"detection_classes": 2},
            {"detection_transform": False},
            {"contrast_form": "binary"},
            {"similarity": "mean"},
            {"similarity": "cosine"},
            {"temperature": 0.5},
            {"pooled": True},
            {"batch_negatives": True},
        ],
    )
    def test_each_changes_the_loss(self, options: dict[str, Any]) -> None:
        losses = [cline(learned_weights=False, **chosen).training_step(texts(), 0).item() for chosen in ({}, options)]
        assert losses[0] != pytest.approx(losses[1], rel=1e-6)

    def test_learned_weights_scale_the_losses(self) -> None:
        model, batch = cline(), texts()
        assert model.log_variances is not None
        before = means(model, batch)
        torch.nn.init.constant_(model.log_variances, 1.0)
        after = means(model, batch)
        assert after["detection"] == pytest.approx(before["detection"])
        assert after["detection_weighted"] == pytest.approx(before["detection"] / math.e)
        assert after["detection_weight"] == pytest.approx(1 / math.e)
        assert after["weight_penalty"] == 3

    @pytest.mark.parametrize(
        "position", [NoPosition(), Sinusoidal(), Rotary(), Learned(T, D), Alibi(4), RelativeBias(4, 8, 6)]
    )
    def test_every_position_scheme(self, position: PositionScheme) -> None:
        assert cline({"position": position}).training_step(texts(), 0).isfinite()

    @pytest.mark.parametrize(
        "network", [{"pre_norm": False}, {"norm": "rms_norm", "activation": "swiglu", "bias": False}]
    )
    def test_every_kind_of_backbone(self, network: dict[str, Any]) -> None:
        assert cline(network).training_step(texts(), 0).isfinite()

    def test_flops_count_three_texts(self) -> None:
        model = cline()
        assert model.flops_per_token(T) > 3 * model.backbone.flops_per_token(T)
        assert cline(pooled=True).flops_per_token(T) > model.flops_per_token(T)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"detection_classes": 4}, "`detection_classes` must be one of 3, 2, but is 4; use `objective.detection_c"),
            ({"contrast_form": "A"}, "`contrast_form` must be one of softmax, binary, but is 'A'"),
            ({"similarity": "A"}, "`similarity` must be one of dot, mean, cosine"),
            ({"temperature": 0.0}, r"`temperature` must be positive, but is 0\.0; use `objective\.temperature=1`"),
            ({"contrast_weight": 2.0}, r"`contrast_weight` .* 1 with learned weights, but is 2\.0"),
            ({"masked_lm_weight": -1.0, "learned_weights": False}, "`masked_lm_weight` must be at least 0"),
            ({"batch_negatives": True, "contrast_form": "binary"}, "`batch_negatives` must be false with"),
            (
                {"learned_weights": False, "masked_lm_weight": 0, "detection_weight": 0, "contrast_weight": 0},
                "`masked_lm_weight` must be positive where the other weights are 0",
            ),
        ],
    )
    def test_out_of_range(self, options: dict[str, Any], sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            cline(**options)

    def test_a_causal_backbone(self) -> None:
        with pytest.raises(InputError, match="`CLINE` needs a bidirectional backbone"):
            CLINE(Transformer(vocab_size=V, hidden_size=D, num_layers=1, num_heads=2, causal=True))


@pytest.mark.filterwarnings("ignore")
class TestABatchOfOne:
    def test_it_is_refused_at_the_start_where_others_are_needed(self) -> None:
        class OneByOne(L.LightningDataModule):
            batch_size = 1
            batch_type = ReplacementBatch

            def train_dataloader(self) -> DataLoader[Any]:
                raise AssertionError("too late")

        trainer = L.Trainer(
            max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu",
        )  # fmt: skip
        sentence = r"`data.batch_size` must be at least 2 with `objective.batch_negatives=true`.* but is 1; use `data.b"
        with pytest.raises(InputError, match=sentence):
            trainer.fit(cline(batch_negatives=True), OneByOne())

    def test_it_has_its_own_negative_otherwise(self) -> None:
        assert cline().training_step(texts(1), 0).isfinite()
