"""Losses that tell texts apart against numbers worked out elsewhere, and against their definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodules.losses import contrastive_cross_entropy


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
