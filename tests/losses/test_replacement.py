"""Detection and correction against numbers worked out elsewhere, and against their definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmmodules.losses import (
    detection_cross_entropy,
    linear_token_cross_entropy,
    mixture_correction,
    weighted_correction,
)

LOGITS = torch.tensor([[2.0, 0.0, 1.0, -1.0], [0.5, 0.5, 0.5, 0.5]])
TARGETS, INPUTS = torch.tensor([0, 1]), torch.tensor([2, 1])
COPY = torch.tensor([-1.0, 1.5])
ORIGINALS = TARGETS == INPUTS


def nats_of(logits: Tensor) -> Tensor:
    """Cross-entropies of the two positions, through a projection that is the identity."""
    return linear_token_cross_entropy(logits, torch.eye(4), TARGETS)[0]


class TestDetection:
    def test_the_worked_example(self) -> None:
        total, count = detection_cross_entropy(COPY, ORIGINALS)
        assert (total / count).item() == pytest.approx(0.257338, abs=1e-6)
        assert count == 2

    def test_one_is_original(self) -> None:
        assert detection_cross_entropy(torch.tensor([9.0]), torch.tensor([True]))[0] < 1e-3
        assert detection_cross_entropy(torch.tensor([9.0]), torch.tensor([False]))[0] > 8

    def test_what_is_not_counted_has_no_part(self) -> None:
        logits = torch.tensor([-1.0, 1.5, 40.0], requires_grad=True)
        total, count = detection_cross_entropy(
            logits, torch.tensor([False, True, False]), torch.tensor([True, True, False])
        )
        assert (total / count).item() == pytest.approx(0.257338, abs=1e-6)
        total.backward()
        assert logits.grad is not None
        assert logits.grad[2] == 0

    def test_half_precision_is_summed_in_float32(self) -> None:
        logits = torch.zeros(4096, dtype=torch.bfloat16)
        total, _ = detection_cross_entropy(logits, torch.ones(4096, dtype=torch.bool), torch.ones(4096).bool())
        assert total.dtype == torch.float32
        assert total.item() == pytest.approx(4096 * math.log(2), rel=1e-5)


class TestCorrection:
    def test_the_worked_example(self) -> None:
        assert nats_of(LOGITS).tolist() == pytest.approx([0.440190, 1.386294], abs=1e-6)
        assert weighted_correction(nats_of(LOGITS), COPY).item() == pytest.approx(0.574700, abs=1e-6)
        mixture = mixture_correction(nats_of(LOGITS), COPY, ORIGINALS)
        assert mixture.item() / 2 == pytest.approx(0.450291, abs=1e-6)
        each = [
            mixture_correction(nats_of(LOGITS)[i : i + 1], COPY[i : i + 1], ORIGINALS[i : i + 1]).item() for i in (0, 1)
        ]
        assert each == pytest.approx([0.753451, 0.147131], abs=1e-6)

    @pytest.mark.parametrize(
        ("form", "norms"),
        [("weighted", [0.31994, 0.15799]), ("mixture", [0.43764, 0.04576]), ("plain", [0.43764, 0.86603])],
    )
    def test_gradients_of_the_worked_example(self, form: str, norms: list[float]) -> None:
        logits, copy_logits = LOGITS.clone().requires_grad_(), COPY.clone().requires_grad_()
        nats = nats_of(logits)
        total = {
            "weighted": lambda: weighted_correction(nats, copy_logits),
            "mixture": lambda: mixture_correction(nats, copy_logits, ORIGINALS),
            "plain": nats.sum,
        }[form]()
        total.backward()
        assert logits.grad is not None
        assert logits.grad.norm(dim=-1).tolist() == pytest.approx(norms, abs=1e-5)
        assert copy_logits.grad is None

    def test_far_logits_stay_finite(self) -> None:
        nats = torch.tensor([80.0, 80.0, 0.0, 0.0], requires_grad=True)
        copy_logits = torch.tensor([200.0, -200.0, 200.0, -200.0])
        originals = torch.tensor([True, True, False, False])
        for total in (
            weighted_correction(nats, copy_logits),
            mixture_correction(nats, copy_logits, originals),
        ):
            assert total.isfinite()
            assert torch.autograd.grad(total, nats)[0].isfinite().all()
        # Copied surely and rightly: nothing. Never copied: the 80 nats. Copied surely and wrongly: 200 nats.
        assert mixture_correction(nats, copy_logits, originals).item() == pytest.approx(80 + 200)

    def test_the_forms_agree_where_nothing_is_copied(self) -> None:
        nats = torch.tensor([1.0, 2.0])
        never = torch.tensor([-50.0, -50.0])
        assert weighted_correction(nats, never).item() == pytest.approx(3.0)
        assert mixture_correction(nats, never, torch.tensor([True, False])).item() == pytest.approx(3.0)
