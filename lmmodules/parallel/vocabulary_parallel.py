"""The end of a language model whose vocabulary is spread over ranks: no rank ever holds the logits of another.

Of every row the ranks exchange three numbers each, by one all-gather: the largest of their logits, the sum of their
exponentials, and the logit of the label where they have it. That is all a cross-entropy needs, and its gradient too.

Source:
    Shoeybi et al. 2019, "Megatron-LM", section 3; Megatron-LM v1.0, `megatron/mpu/cross_entropy.py`.

Differences:
    The released code makes three all-reduces (maximum, label, sum of exponentials) over all rows at once. Here rows go
    through in chunks, as in `lmmodules.losses`, and one all-gather per chunk carries the same numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from lmmodules.parallel.conjugates import all_gather, copy_to_ranks, gather_parts, sum_over_ranks
from lmmodules.parallel.mesh import TENSOR_AXIS, local_tensor


def is_vocabulary_parallel(weight: Tensor) -> bool:
    """Whether each rank holds the rows of some tokens of an output matrix (V, D).

    Args:
        weight: The matrix, as a strategy left it.
    """
    return isinstance(weight, DTensor) and weight.device_mesh.mesh_dim_names == (TENSOR_AXIS,)


def summed_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    chunk_rows: int,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over rows; gradients are made in the same pass, as in `losses.linear_cross_entropy`.

    Args:
        hidden: (N, D) features, equal on all ranks.
        weight: (V, D) output matrix, spread by rows.
        labels: (N,) target ids; every row has one.
        bias: (V,) spread as the matrix, or none.
        chunk_rows: Rows that share one product.
        label_smoothing: Share of the target probability spread evenly over the whole vocabulary.

    Returns:
        The sum in nats and the number of rows whose largest logit is that of the label, equal on all ranks.
    """
    part = _Part.of(weight, bias)
    hidden = copy_to_ranks(hidden, part.group)
    total, correct = _SummedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, part.weight, part.bias, labels, part, chunk_rows, 1.0 - label_smoothing, torch.is_grad_enabled()
    )
    if label_smoothing > 0.0:
        with torch.autocast(hidden.device.type, enabled=False):
            sum_dtype = torch.promote_types(hidden.dtype, torch.float32)
            logits = torch.dot(hidden.to(sum_dtype).sum(0), part.weight.to(sum_dtype).sum(0))
            if part.bias is not None:
                logits = logits + len(hidden) * part.bias.to(sum_dtype).sum()
        total = total - label_smoothing / weight.shape[0] * sum_over_ranks(logits, part.group)
    return total, correct


def row_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, *, chunk_rows: int
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every row by itself, whose logits are made again in the backward pass.

    Args:
        hidden: (N, D) features, equal on all ranks.
        weight: (V, D) output matrix, spread by rows.
        labels: (N,) target ids; every row has one.
        bias: (V,) spread as the matrix, or none.
        chunk_rows: Rows that share one product.

    Returns:
        Nats (N,) and whether the largest logit is that of the label (N,), equal on all ranks.
    """
    part = _Part.of(weight, bias)
    hidden = copy_to_ranks(hidden, part.group)
    nats, hits = _RowCrossEntropy.apply(hidden, part.weight, part.bias, labels, part, chunk_rows)  # type: ignore[no-untyped-call]
    return nats, hits


def gathered_logits(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Logits over the whole vocabulary, for objectives that need them at a few rows.

    Args:
        features: (..., D), equal on all ranks.
        weight: (V, D) output matrix, spread by rows.
        bias: (V,) spread as the matrix, or none.

    Returns:
        (..., V), equal on all ranks.
    """
    part = _Part.of(weight, bias)
    logits = F.linear(copy_to_ranks(features, part.group), part.weight, part.bias)
    return gather_parts(logits, part.group, logits.dim() - 1)


@torch.no_grad()
def drawn_tokens(features: Tensor, weight: Tensor, bias: Tensor | None, draws: Tensor, *, chunk_rows: int) -> Tensor:
    """Draw a token for each row where the cumulative distribution exceeds a given number; see `draw_tokens`.

    Each rank tells the others what its tokens weigh together, so that all know in whose part the draw lies.

    Args:
        features: (M, D), equal on all ranks.
        weight: (V, D) output matrix, spread by rows.
        bias: (V,) spread as the matrix, or none.
        draws: (M,) uniform in [0, 1), equal on all ranks.
        chunk_rows: Rows whose distributions are in memory at once.

    Returns:
        (M,) int64 token ids, equal on all ranks.
    """
    part = _Part.of(weight, bias)
    tokens = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    for start in range(0, len(features), chunk_rows):
        rows = slice(start, start + chunk_rows)
        logits = F.linear(features[rows], part.weight, part.bias).float()
        peak = logits.amax(-1)
        cumulative = (logits - peak[:, None]).exp_().cumsum(-1)
        told = all_gather(torch.stack([peak, cumulative[:, -1]])[None], part.group, 0)  # (ranks, 2, rows)
        masses = told[:, 1] * (told[:, 0] - told[:, 0].amax(0)).exp()
        ends = masses.cumsum(0)
        wanted = draws[rows].float() * ends[-1]
        owner = (ends <= wanted).sum(0).clamp_(max=len(ends) - 1)
        # Back to this rank's own scale, in which its distribution ends at `cumulative[:, -1]`.
        before = ends[part.rank] - masses[part.rank]
        inside = (wanted - before) / masses[part.rank] * cumulative[:, -1]
        found = torch.searchsorted(cumulative, inside[:, None], right=True)[:, 0].clamp_(max=len(part.weight) - 1)
        tokens[rows] = torch.where(owner == part.rank, found + part.start, 0)
    dist.all_reduce(tokens, group=part.group)
    return tokens


class _Part(NamedTuple):
    """This rank's part of an output matrix, and whom it shares the matrix with."""

    weight: Tensor  # (V / ranks, D)
    bias: Tensor | None  # (V / ranks,)
    start: int  # the first of its tokens
    rank: int
    group: dist.ProcessGroup

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> _Part:
        assert isinstance(weight, DTensor)
        mesh, local = weight.device_mesh, local_tensor(weight)
        rank = mesh.get_local_rank()
        return cls(local, None if bias is None else local_tensor(bias), rank * len(local), rank, mesh.get_group())


class _Scores(NamedTuple):
    """What a chunk of rows comes to over all ranks."""

    log_normaliser: Tensor  # (rows,)
    label_logits: Tensor  # (rows,)
    hits: Tensor  # (rows,) bool
    own: Tensor  # (rows,) bool, whether the label is one of this rank's tokens
    targets: Tensor  # (rows,) the label among this rank's tokens, 0 where it is none


def _score(logits: Tensor, labels: Tensor, part: _Part) -> _Scores:
    """Exchange three numbers per row, and which token is the largest.

    Args:
        logits: (rows, V / ranks) in float32 or float64.
        labels: (rows,) target ids.
        part: Whose logits they are.
    """
    own = (labels >= part.start) & (labels < part.start + logits.shape[1])
    targets = torch.where(own, labels - part.start, 0)
    peak, best = logits.max(dim=-1)
    label_logits = torch.where(own, logits.gather(1, targets[:, None])[:, 0], 0.0)
    told = torch.stack([peak, (logits - peak[:, None]).exp().sum(-1), label_logits, (own & (best == targets)).to(peak)])
    told = all_gather(told[None], part.group, 0)  # (ranks, 4, rows)
    highest, winner = told[:, 0].max(0)
    sums = (told[:, 1] * (told[:, 0] - highest).exp()).sum(0)
    hits = told[:, 3].gather(0, winner[None])[0] > 0
    return _Scores(highest + sums.log(), told[:, 2].sum(0), hits, own, targets)


def product_dtype(hidden: Tensor) -> torch.dtype:
    """Type of the products: that of autocast, which does not reach products within a function, where it is on.

    Args:
        hidden: The features.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        part: _Part,
        chunk_rows: int,
        target_weight: float,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        sum_dtype, dtype = torch.promote_types(hidden.dtype, torch.float32), product_dtype(hidden)
        needs_hidden, needs_weight, needs_bias = (grad_enabled and needed for needed in ctx.needs_input_grad[:3])
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=sum_dtype, device=weight.device) if needs_weight else None
        grad_bias = torch.zeros(len(weight), dtype=sum_dtype, device=weight.device) if needs_bias else None
        total = torch.zeros((), dtype=sum_dtype, device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            projection = weight.to(dtype)
            offset = None if bias is None else bias.to(dtype)
            for start in range(0, len(hidden), chunk_rows):
                rows = slice(start, start + chunk_rows)
                features = hidden[rows].to(dtype)
                logits = F.linear(features, projection, offset).to(sum_dtype)
                scores = _score(logits, labels[rows], part)
                total += (scores.log_normaliser - target_weight * scores.label_logits).sum()
                correct += scores.hits.sum()
                if not (needs_hidden or needs_weight or needs_bias):
                    continue
                softmax = logits.sub_(scores.log_normaliser[:, None]).exp_()
                softmax.scatter_add_(1, scores.targets[:, None], -target_weight * scores.own[:, None].to(sum_dtype))
                grad_logits = softmax.to(dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = grad_logits @ projection
                if grad_weight is not None:
                    grad_weight += grad_logits.T @ features
                if grad_bias is not None:
                    grad_bias += softmax.sum(0)
        ctx.save_for_backward(
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
        )
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        gradients = tuple(None if grad is None else grad * grad_total for grad in ctx.saved_tensors)
        return (*gradients, None, None, None, None, None)


class _RowCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        part: _Part,
        chunk_rows: int,
    ) -> tuple[Tensor, Tensor]:
        sum_dtype, dtype = torch.promote_types(hidden.dtype, torch.float32), product_dtype(hidden)
        nats = torch.empty(labels.shape, dtype=sum_dtype, device=hidden.device)
        log_normaliser = torch.empty_like(nats)
        hits = torch.empty(labels.shape, dtype=torch.bool, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            projection = weight.to(dtype)
            offset = None if bias is None else bias.to(dtype)
            for start in range(0, len(labels), chunk_rows):
                rows = slice(start, start + chunk_rows)
                logits = F.linear(hidden[rows].to(dtype), projection, offset).to(sum_dtype)
                scores = _score(logits, labels[rows], part)
                nats[rows] = scores.log_normaliser - scores.label_logits
                log_normaliser[rows], hits[rows] = scores.log_normaliser, scores.hits
        ctx.save_for_backward(hidden, weight, bias, labels, log_normaliser)
        ctx.start, ctx.chunk_rows, ctx.product_dtype = part.start, chunk_rows, dtype
        ctx.mark_non_differentiable(hits)
        return nats, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nats: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, log_normaliser = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=grad_nats.dtype, device=weight.device) if needs_weight else None
        grad_bias = torch.zeros(len(weight), dtype=grad_nats.dtype, device=weight.device) if needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            projection = weight.to(ctx.product_dtype)
            offset = None if bias is None else bias.to(ctx.product_dtype)
            for start in range(0, len(labels), ctx.chunk_rows):
                rows = slice(start, start + ctx.chunk_rows)
                features, targets = hidden[rows].to(ctx.product_dtype), labels[rows, None] - ctx.start
                own = (targets >= 0) & (targets < len(weight))
                logits = F.linear(features, projection, offset).to(grad_nats.dtype)
                softmax = logits.sub_(log_normaliser[rows, None]).exp_()
                softmax.scatter_add_(1, torch.where(own, targets, 0), -own.to(softmax.dtype))
                softmax *= grad_nats[rows, None]
                grad_logits = softmax.to(ctx.product_dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = grad_logits @ projection
                if grad_weight is not None:
                    grad_weight += grad_logits.T @ features
                if grad_bias is not None:
                    grad_bias += softmax.sum(0)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
        )
