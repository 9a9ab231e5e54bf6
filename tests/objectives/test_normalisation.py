"""The loss that is optimised is a sum over a count, over ranks and accumulated batches alike."""

from __future__ import annotations

from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lmmodules.batch import CausalBatch, MaskedBatch
from lmmodules.errors import InputError
from lmmodules.objectives import Objective
from lmmodules.parallel import Term


class Scalar(nn.Module):
    causal = True
    vocab_size = 10

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


class Counted(Objective):
    """The gradient of its loss is the mean of `values` over the labels that count."""

    batch_type = CausalBatch

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Term]:
        counted = batch["labels"] >= 0
        return {"loss": Term((batch["values"] * counted).sum() * self.backbone.weight, counted.sum())}


class TwoTerms(Counted):
    perplexity_term: ClassVar[str] = "first"

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Term]:
        term = super().losses(batch)["loss"]
        return {
            "first": term,
            "second": Term(2 * self.backbone.weight, 4, weight=10.0),
            "watched": Term(1000 * self.backbone.weight.detach(), 1, weight=0.0),
        }


def batch(values: list[float], labels: list[int]) -> dict[str, Tensor]:
    return {
        "input_ids": torch.zeros(1, len(values), dtype=torch.int64),
        "labels": torch.tensor([labels]),
        "values": torch.tensor([values]),
    }


class Watch(L.Callback):
    def __init__(self) -> None:
        self.gradients: list[float] = []

        self.steps = 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step > self.steps:
            self.steps = trainer.global_step
            self.gradients.append(pl_module.backbone.weight.grad.item())


def gradients(objective: Objective, batches: list[dict[str, Tensor]], **trainer: Any) -> list[float]:
    watch = Watch()
    L.Trainer(
        max_epochs=1,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **trainer,
    ).fit(objective, DataLoader(batches, batch_size=None))
    return watch.gradients


UNEVEN = [batch([1.0] * 8, [0] * 8), batch([3.0] * 8, [0, 0, -100, -100, -100, -100, -100, -100])]


@pytest.mark.filterwarnings("ignore")
class TestNormalisation:
    def test_a_batch_alone_is_divided_by_its_own_count(self) -> None:
        assert gradients(Counted(Scalar()), UNEVEN) == pytest.approx([1.0, 3.0])

    def test_accumulated_batches_are_divided_by_their_common_count(self) -> None:
        # (8 * 1 + 2 * 3) / 10; a mean of the two means would be 2.
        assert gradients(Counted(Scalar()), UNEVEN, accumulate_grad_batches=2) == pytest.approx([1.4])

    def test_accumulation_equals_one_large_batch(self) -> None:
        joined = {name: torch.cat([one[name] for one in UNEVEN]) for name in UNEVEN[0]}
        accumulated = gradients(Counted(Scalar()), UNEVEN, accumulate_grad_batches=2)
        assert accumulated == pytest.approx(gradients(Counted(Scalar()), [joined]))

    def test_the_last_window_of_an_epoch_may_be_short(self) -> None:
        three = [*UNEVEN, batch([5.0] * 8, [0] * 8)]
        assert gradients(Counted(Scalar()), three, accumulate_grad_batches=2) == pytest.approx([1.4, 5.0])

    def test_a_window_that_begins_without_a_label_is_right_too(self) -> None:
        nothing = batch([9.0] * 8, [-100] * 8)
        assert gradients(Counted(Scalar()), [nothing, UNEVEN[1]], accumulate_grad_batches=2) == pytest.approx([3.0])

    def test_no_label_anywhere_is_zero_and_stays_connected(self) -> None:
        assert gradients(Counted(Scalar()), [batch([9.0] * 8, [-100] * 8)]) == [0.0]

    def test_clipping_sees_the_normalised_gradient(self) -> None:
        clipped = gradients(Counted(Scalar()), UNEVEN, accumulate_grad_batches=2, gradient_clip_val=1.0)
        assert clipped == pytest.approx([1.0], abs=1e-5)
        assert gradients(Counted(Scalar()), UNEVEN, accumulate_grad_batches=2, gradient_clip_val=1.5) == pytest.approx(
            [1.4]
        )

    def test_terms_have_their_own_counts_and_weights(self) -> None:
        # Each batch: its mean once, and ten times 2 over 4; what is only watched does not enter.
        assert gradients(TwoTerms(Scalar()), UNEVEN) == pytest.approx([1.0 + 5.0, 3.0 + 5.0])


@pytest.mark.filterwarnings("ignore")
class TestClipping:
    def test_by_value(self) -> None:
        clipped = gradients(Counted(Scalar()), UNEVEN, gradient_clip_val=0.5, gradient_clip_algorithm="value")
        assert clipped == pytest.approx([0.5, 0.5])

    def test_a_fused_optimizer_may_be_clipped_in_bfloat16(self) -> None:
        # The default optimizer is fused; Lightning itself refuses the pair.
        clipped = gradients(Counted(Scalar()), UNEVEN, gradient_clip_val=2.0, precision="bf16-mixed")
        assert clipped == pytest.approx([1.0, 2.0], abs=1e-5)

    def test_the_norm_before_clipping_is_logged(self) -> None:
        objective = Counted(Scalar())
        gradients(objective, UNEVEN, gradient_clip_val=0.1)
        assert objective.collect_training_metrics()["gradient_norm"] == pytest.approx((1.0 + 3.0) / 2)

    def test_nothing_is_logged_where_nothing_is_clipped(self) -> None:
        objective = Counted(Scalar())
        gradients(objective, UNEVEN)
        assert "gradient_norm" not in objective.collect_training_metrics()


@pytest.mark.filterwarnings("ignore")
class TestDataModule:
    """What a data module declares is compared before the first step."""

    @pytest.mark.parametrize(
        ("batch_type", "vocab_size", "sentence"),
        [
            (MaskedBatch, 5, "`Counted` needs a `CausalBatch`, but the data module yields a `MaskedBatch`"),
            (CausalBatch, 11, r"`vocab_size` of the backbone must be at least that of the tokenizer \(11\), but is 10"),
        ],
    )
    def test_a_mismatch_is_told(self, batch_type: type, vocab_size: int, sentence: str) -> None:
        class Data(L.LightningDataModule):
            def train_dataloader(self) -> DataLoader[Any]:
                return DataLoader(UNEVEN, batch_size=None)  # type: ignore[arg-type]

        data = Data()
        data.batch_type, data.vocab_size = batch_type, vocab_size  # type: ignore[attr-defined]
        trainer = L.Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
        with pytest.raises(InputError, match=sentence):
            trainer.fit(Counted(Scalar()), data)
