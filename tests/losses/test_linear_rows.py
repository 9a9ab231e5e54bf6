"""The cross-entropy of each row against its definition in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodules.errors import InputError
from lmmodules.losses import linear_token_cross_entropy


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

    def test_logits_of_all_rows_are_never_there(self, largest_tensor: type) -> None:
        hidden, weight = torch.randn(600, 4, requires_grad=True), torch.randn(500, 4, requires_grad=True)
        with largest_tensor() as made:
            nats, _ = linear_token_cross_entropy(hidden, weight, torch.zeros(600, dtype=torch.int64), chunk_rows=32)
            nats.square().sum().backward()
        assert made.elements == 32 * 500

    def test_shapes_that_do_not_fit(self) -> None:
        with pytest.raises(InputError, match="`labels` must have one entry for each of the 4 rows of `hidden`"):
            linear_token_cross_entropy(torch.zeros(4, 2), torch.zeros(5, 2), torch.zeros(3, dtype=torch.int64))
