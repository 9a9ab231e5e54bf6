"""Output projection and softmax cross-entropy of each row, for losses that weigh rows differently."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmmodules.losses.output_projection import check_shapes, rows_per_chunk
from lmmodules.parallel import vocabulary_parallel


def linear_token_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, *, chunk_rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """Output projection and softmax cross-entropy of every row by itself, without ever holding `(N, V)`.

    For losses that weigh rows differently. The logits of a chunk are computed again in the backward pass, because the
    weights are known only there; where all rows weigh the same, `linear_cross_entropy` spares that.

    Args:
        hidden: `(N, D)` features.
        weight: `(V, D)` output projection, usually the token embedding.
        labels: `(N,)` target ids; every row has one.
        bias: `(V,)` or none.
        chunk_rows: Rows that share one product; chosen from the size of the vocabulary when left out.

    Returns:
        The cross-entropy of each row in nats, `(N,)` in float32 (float64 for float64 input), and whether its largest
        logit is that of the label, `(N,)` bool.

    Raises:
        InputError: If the shapes do not fit together.
    """
    check_shapes(hidden, weight, labels, bias)
    chunk_rows = chunk_rows or rows_per_chunk(weight.shape[0], hidden.device.type)
    if vocabulary_parallel.is_vocabulary_parallel(weight):
        return vocabulary_parallel.row_cross_entropy(hidden, weight, labels, bias, chunk_rows=chunk_rows)
    nats, hits = _LinearTokenCrossEntropy.apply(hidden, weight, bias, labels, chunk_rows)  # type: ignore[no-untyped-call]
    return nats, hits


class _LinearTokenCrossEntropy(torch.autograd.Function):
    """`logsumexp(logits) - logits[label]` of each row, chunk by chunk, and its gradients from logits made again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk_rows: int
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        sum_dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        product_dtype = vocabulary_parallel.product_dtype(hidden)
        nats = torch.empty(labels.shape, dtype=sum_dtype, device=hidden.device)
        hits = torch.empty(labels.shape, dtype=torch.bool, device=hidden.device)
        with torch.autocast(device, enabled=False):
            projection = weight.to(product_dtype)
            offset = None if bias is None else bias.to(product_dtype)
            for start in range(0, len(labels), chunk_rows):
                rows = slice(start, start + chunk_rows)
                logits = F.linear(hidden[rows].to(product_dtype), projection, offset)
                nats[rows] = F.cross_entropy(logits.to(sum_dtype), labels[rows], reduction="none")
                hits[rows] = logits.argmax(-1) == labels[rows]
        ctx.save_for_backward(hidden, weight, bias, labels)
        ctx.chunk_rows, ctx.product_dtype = chunk_rows, product_dtype
        ctx.mark_non_differentiable(hits)
        return nats, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nats: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=grad_nats.dtype, device=weight.device) if needs_weight else None
        grad_bias = torch.zeros(len(weight), dtype=grad_nats.dtype, device=weight.device) if needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            projection = weight.to(ctx.product_dtype)
            offset = None if bias is None else bias.to(ctx.product_dtype)
            for start in range(0, len(labels), ctx.chunk_rows):
                rows = slice(start, start + ctx.chunk_rows)
                features, targets = hidden[rows].to(ctx.product_dtype), labels[rows, None]
                softmax = torch.softmax(F.linear(features, projection, offset), dim=-1, dtype=grad_nats.dtype)
                softmax.scatter_add_(1, targets, softmax.new_full(targets.shape, -1.0))
                softmax *= grad_nats[rows, None]
                grad_logits = softmax.to(ctx.product_dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = grad_logits @ projection
                if grad_weight is not None:
                    grad_weight += grad_logits.T @ features
                if grad_bias is not None:
                    grad_bias += softmax.sum(dim=0)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )
