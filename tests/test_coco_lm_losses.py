"""The losses of COCO-LM against numbers worked out elsewhere, and against their definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmmodules.errors import InputError
from lmmodules.losses import (
    contrastive_cross_entropy,
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


class TestTokenCrossEntropy:
    N, D, V = 23, 5, 11

    def problem(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        hidden, weight, bias, upstream = (
            torch.randn(*shape, generator=generator, dtype=torch.float64)
            for shape in ((self.N, self.D), (self.V, self.D), (self.V,), (self.N,))
        )
        labels = torch.randint(self.V, (self.N,), generator=generator)
        return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), labels, upstream

    @pytest.mark.parametrize("chunk_rows", [None, 1, 7, 23, 50])
    @pytest.mark.parametrize("with_bias", [True, False])
    def test_it_is_the_cross_entropy_of_each_row(self, chunk_rows: int | None, with_bias: bool) -> None:
        hidden, weight, bias, labels, upstream = self.problem()
        offset = bias if with_bias else None
        leaves = [hidden, weight, bias] if with_bias else [hidden, weight]
        nats, hits = linear_token_cross_entropy(hidden, weight, labels, offset, chunk_rows=chunk_rows)
        logits = F.linear(hidden, weight, offset)
        expected = F.cross_entropy(logits, labels, reduction="none")
        torch.testing.assert_close(nats, expected, rtol=1e-12, atol=0)
        assert torch.equal(hits, logits.argmax(-1) == labels)
        assert not hits.requires_grad
        found = torch.autograd.grad((nats * upstream).sum(), leaves)
        wanted = torch.autograd.grad((expected * upstream).sum(), leaves)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)

    def test_only_what_needs_a_gradient_gets_one(self) -> None:
        hidden, weight, bias, labels, _ = self.problem()
        nats, _ = linear_token_cross_entropy(hidden.detach(), weight, labels, bias.detach())
        nats.sum().backward()
        assert hidden.grad is None
        assert bias.grad is None
        assert weight.grad is not None

    def test_no_rows_give_nothing_and_stay_connected(self) -> None:
        weight = torch.randn(self.V, self.D, requires_grad=True)
        nats, hits = linear_token_cross_entropy(torch.empty(0, self.D), weight, torch.empty(0, dtype=torch.int64))
        nats.sum().backward()
        assert nats.shape == hits.shape == (0,)
        assert weight.grad is not None
        assert weight.grad.count_nonzero() == 0

    def test_bfloat16_under_autocast(self) -> None:
        hidden, weight, bias, labels, upstream = self.problem()
        leaves = [leaf.detach().float().requires_grad_() for leaf in (hidden, weight, bias)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            nats, _ = linear_token_cross_entropy(leaves[0], leaves[1], labels, leaves[2])
        assert nats.dtype == torch.float32
        expected = F.cross_entropy(F.linear(hidden, weight, bias), labels, reduction="none")
        torch.testing.assert_close(nats.double(), expected, rtol=0.05, atol=0.05)
        assert not torch.allclose(nats.double(), expected, rtol=1e-6, atol=0)
        found = torch.autograd.grad((nats * upstream.float()).sum(), leaves)
        wanted = torch.autograd.grad((expected * upstream).sum(), [hidden, weight, bias])
        for one, other in zip(found, wanted, strict=True):
            assert F.cosine_similarity(one.double().flatten(), other.flatten(), dim=0) > 0.999

    def test_logits_of_all_rows_are_never_there(self) -> None:
        class Largest(TorchDispatchMode):
            size = 0

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
                result = func(*args, **(kwargs or {}))
                if isinstance(result, Tensor):
                    Largest.size = max(Largest.size, result.numel())
                return result

        hidden, weight = torch.randn(600, 4, requires_grad=True), torch.randn(500, 4, requires_grad=True)
        with Largest():
            nats, _ = linear_token_cross_entropy(hidden, weight, torch.zeros(600, dtype=torch.int64), chunk_rows=32)
            nats.square().sum().backward()
        assert Largest.size == 32 * 500

    def test_shapes_that_do_not_fit(self) -> None:
        with pytest.raises(InputError, match="`labels` must have one entry for each of the 4 rows of `hidden`"):
            linear_token_cross_entropy(torch.zeros(4, 2), torch.zeros(5, 2), torch.zeros(3, dtype=torch.int64))


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


def pairs(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([F.normalize(first, dim=-1), F.normalize(second, dim=-1)])


class TestContrast:
    def test_equal_vectors_tell_nothing(self) -> None:
        total, count, _ = contrastive_cross_entropy(torch.ones(8, 3) / 3**0.5)
        assert total.item() / count == pytest.approx(math.log(7), abs=1e-5) == pytest.approx(1.94591, abs=1e-5)

    @pytest.mark.parametrize(("size", "loss"), [(4, 1.16542), (32, 3.17004)])
    def test_perfect_pairs_do_not_reach_zero(self, size: int, loss: float) -> None:
        total, count, hits = contrastive_cross_entropy(torch.eye(size).repeat(2, 1))
        assert total.item() / count == pytest.approx(loss, abs=1e-5)
        assert hits == count == 2 * size

    @pytest.mark.parametrize(("temperature", "loss"), [(1.0, 0.732602), (0.1, 0.347211)])
    def test_the_worked_example(self, temperature: float, loss: float) -> None:
        first, second = torch.eye(2), torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
        for embeddings in (pairs(first, second), pairs(second, first)):
            total, count, _ = contrastive_cross_entropy(embeddings, temperature=temperature)
            assert total.item() / count == pytest.approx(loss, abs=1e-6)

    def test_both_views_learn(self) -> None:
        embeddings = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
        contrastive_cross_entropy(embeddings)[0].backward()
        assert embeddings.grad is not None
        assert (embeddings.grad.norm(dim=-1) > 1e-3).all()

    def test_parts_with_all_keys_make_the_whole(self) -> None:
        generator = torch.Generator().manual_seed(0)
        first, second = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
        whole, count, hits = contrastive_cross_entropy(torch.cat([first, second]), temperature=0.5)
        parts = [torch.cat([first[:2], second[:2]]), torch.cat([first[2:], second[2:]])]
        keys = torch.cat(parts)
        found = [
            contrastive_cross_entropy(part, temperature=0.5, keys=keys, start=start)
            for part, start in zip(parts, (0, 4), strict=True)
        ]
        assert sum(total.item() for total, _, _ in found) == pytest.approx(whole.item(), rel=1e-12)
        assert sum(number for _, number, _ in found) == count == 10
        assert sum(int(right) for _, _, right in found) == hits

    @pytest.mark.parametrize("temperature", [1.0, 0.05])
    def test_autocast_does_not_round_the_products(self, temperature: float) -> None:
        generator = torch.Generator().manual_seed(0)
        common = torch.randn(1, 64, generator=generator)  # views of all texts lie close together, as in training
        vectors = F.normalize(common + 0.3 * torch.randn(32, 64, generator=generator), dim=-1)

        def found(dtype: torch.dtype, autocast: bool) -> tuple[float, int, Tensor]:
            embeddings = vectors.to(dtype).requires_grad_()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                total, _, hits = contrastive_cross_entropy(embeddings, temperature=temperature)
            total.backward()
            assert embeddings.grad is not None
            return total.item(), int(hits), embeddings.grad

        exact, hits, gradient = found(torch.float64, autocast=False)
        rounded = found(torch.float32, autocast=True)
        assert rounded[0] == pytest.approx(exact, rel=1e-6)
        assert rounded[1] == hits
        assert (rounded[2] - gradient).norm() < 1e-5 * gradient.norm()

    def test_half_precision_is_multiplied_in_float32(self) -> None:
        embeddings = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
        total = contrastive_cross_entropy(embeddings)[0]
        assert total.dtype == torch.float32
        assert total.item() == pytest.approx(contrastive_cross_entropy(embeddings.double())[0].item(), rel=1e-6)

    def test_no_pairs_and_one_pair(self) -> None:
        none = torch.empty(0, 4, requires_grad=True)
        total, count, hits = contrastive_cross_entropy(none)
        total.backward()
        assert (total.item(), count, int(hits)) == (0.0, 0, 0)
        assert contrastive_cross_entropy(torch.eye(2))[0] == 0  # nothing to tell from: the objective refuses it
