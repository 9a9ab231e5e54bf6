"""Output projection and softmax cross-entropy in one pass that makes the gradients as well."""

from __future__ import annotations

import threading
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmmodules.batch import IGNORED
from lmmodules.errors import InputError
from lmmodules.losses.cross_entropy import check_smoothing
from lmmodules.losses.output_projection import check_shapes, rows_per_chunk
from lmmodules.losses.precision import LOW_PRECISION, full_precision
from lmmodules.parallel import vocabulary_parallel

_UNIFORM = 1.001
"""Probability of the likeliest token, times their number, up to which none is preferred and so none is right."""
_PLAIN = (Tensor, torch.nn.Parameter)


@overload
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    chunk_rows: int | None = None,
    label_smoothing: float = 0.0,
    with_accuracy: Literal[False] = False,
) -> tuple[Tensor, Tensor]: ...


@overload
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    chunk_rows: int | None = None,
    label_smoothing: float = 0.0,
    with_accuracy: Literal[True],
) -> tuple[Tensor, Tensor, Tensor]: ...


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    chunk_rows: int | None = None,
    label_smoothing: float = 0.0,
    with_accuracy: bool = False,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """Output projection and softmax cross-entropy in one, without ever holding `(N, V)`.

    Equal to `token_cross_entropy(hidden @ weight.T + bias, labels)`. Rows without a label are dropped before the
    product; the others go through in chunks that reuse one buffer of logits. As the softmax of a chunk is at hand,
    the gradients are computed in the same pass and only multiplied by the incoming gradient in the backward pass,
    so the logits are never computed twice. There is no second derivative.

    Sums, softmax and the gradient of `weight` are accumulated in float32 (float64 for float64 input), also when the
    products run in half precision, by their own dtype or under autocast.

    Args:
        hidden: `(N, D)` features.
        weight: `(V, D)` output projection, usually the token embedding.
        labels: `(N,)` target ids; rows with label -100 are dropped.
        bias: `(V,)` or none.
        chunk_rows: Rows that share one product; chosen from the size of the vocabulary when left out.
        label_smoothing: Share of the target probability spread evenly over the vocabulary, in [0, 1).
        with_accuracy: Also return the number of rows whose largest logit is that of the label. Where all logits of a
            row are equal, none is.

    Returns:
        The sum in nats, the number of labelled rows (int64) and, if asked for, the number of correct ones (int64).
        Without a label the sum is 0, connected to the graph with zero gradients.

    Raises:
        InputError: If the shapes do not fit together, `chunk_rows` is not positive, or `label_smoothing` is not in
            [0, 1).
    """
    check_smoothing(label_smoothing)
    check_shapes(hidden, weight, labels, bias)
    if chunk_rows is None:
        chunk_rows = rows_per_chunk(weight.shape[0], hidden.device.type)
    elif chunk_rows < 1:
        raise InputError(f"`chunk_rows` must be at least 1, but is {chunk_rows}; leave it out to have it chosen")

    labelled = (labels != IGNORED).nonzero().squeeze(-1)
    if labelled.numel() < labels.numel():
        hidden, labels = hidden[labelled], labels[labelled]
    count = torch.full((), labels.numel(), device=labels.device)

    if vocabulary_parallel.is_vocabulary_parallel(weight):
        total, correct = vocabulary_parallel.summed_cross_entropy(
            hidden, weight, labels, bias, chunk_rows=chunk_rows, label_smoothing=label_smoothing
        )
        return (total, count, correct) if with_accuracy else (total, count)
    total, correct = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, labels, chunk_rows, 1.0 - label_smoothing, with_accuracy, torch.is_grad_enabled()
    )
    if label_smoothing > 0.0:
        total = total - label_smoothing * _summed_mean_logit(hidden, weight, bias)
    return (total, count, correct) if with_accuracy else (total, count)


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over rows of `logsumexp(logits) - target_weight * logits[label]`, and its gradients, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        chunk_rows: int,
        target_weight: float,
        with_accuracy: bool,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device
        num_rows, vocab_size = hidden.shape[0], weight.shape[0]
        sum_dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        needs_hidden, needs_weight, needs_bias = (grad_enabled and needed for needed in ctx.needs_input_grad[:3])

        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        # The first product writes over it: at a large vocabulary, zeroing it first would take as long as the softmax.
        make = torch.empty if num_rows else torch.zeros
        grad_weight = make(weight.shape, dtype=sum_dtype, device=device) if needs_weight else None
        grad_bias = torch.zeros(vocab_size, dtype=sum_dtype, device=device) if needs_bias else None
        total = torch.zeros((), dtype=sum_dtype, device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)

        product_dtype = vocabulary_parallel.product_dtype(hidden)
        with torch.autocast(device.type, enabled=False):
            inputs, projection = hidden.to(product_dtype), weight.to(product_dtype)
            offset = None if bias is None else bias.to(product_dtype)
            # Chunks of one size: a last one of a few rows would be the slowest product of all.
            chunk_rows = -(-num_rows // max(1, -(-num_rows // chunk_rows)))
            logits_buffer = _chunk_buffer(hidden, chunk_rows, vocab_size, product_dtype)
            # Memory that is touched for the first time costs more than the softmax itself, so it is written over the
            # logits where it has their dtype.
            softmax_buffer = (
                logits_buffer if sum_dtype == product_dtype else torch.empty_like(logits_buffer, dtype=sum_dtype)
            )

            for start in range(0, num_rows, max(1, chunk_rows)):
                rows = slice(start, min(start + chunk_rows, num_rows))
                features, targets = inputs[rows], labels[rows, None]
                logits = logits_buffer[: features.shape[0]]
                softmax = softmax_buffer[: features.shape[0]]

                if offset is None:
                    torch.mm(features, projection.T, out=logits)
                else:
                    torch.addmm(offset, features, projection.T, out=logits)
                first = None
                if with_accuracy and product_dtype in LOW_PRECISION:  # in which several may be the largest
                    peak, first = logits.max(dim=-1)
                else:  # at a third of the cost
                    peak = logits.amax(dim=-1)
                label_logits = logits.gather(1, targets)[:, 0].to(sum_dtype)
                torch.softmax(logits, dim=-1, dtype=sum_dtype, out=softmax)
                # The softmax at the peak is 1 / sum(exp(logits - peak)): at least 1 / V, so its logarithm is exact.
                largest = softmax.amax(dim=-1)
                if with_accuracy:
                    hits = label_logits == peak if first is None else first == targets[:, 0]
                    correct += (hits & (largest > _UNIFORM / vocab_size)).sum()
                log_normaliser = peak.to(sum_dtype) - largest.log()
                total += (log_normaliser - target_weight * label_logits).sum()

                if not (needs_hidden or needs_weight or needs_bias):
                    continue
                softmax.scatter_add_(1, targets, softmax.new_full(targets.shape, -target_weight))
                grad_logits = softmax if softmax.dtype == product_dtype else logits.copy_(softmax)
                if grad_hidden is not None:
                    grad_hidden[rows] = grad_logits @ projection
                if grad_weight is not None:
                    if grad_weight.dtype == product_dtype:
                        grad_weight.addmm_(grad_logits.T, features, beta=0 if start == 0 else 1)
                    elif start == 0:
                        grad_weight.copy_(grad_logits.T @ features)
                    else:
                        grad_weight += grad_logits.T @ features
                if grad_bias is not None:
                    grad_bias += softmax.sum(dim=0)

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
        # Where nobody will ask again, the gradients are multiplied where they lie.
        multiply = torch.mul if _is_graph_kept() else Tensor.mul_
        gradients = tuple(None if grad is None else multiply(grad, grad_total) for grad in ctx.saved_tensors)
        return (*gradients, None, None, None, None, None)


_kept = threading.local()
"""The buffer of logits of each thread, between calls."""


def _chunk_buffer(hidden: Tensor, rows: int, vocab_size: int, dtype: torch.dtype) -> Tensor:
    """A buffer (rows, V) for the logits of a chunk, whatever it holds.

    On a processor it is kept for the next call: memory of this size goes back to the system when it is freed, and to
    touch it for the first time again costs more than the softmax. Accelerators keep freed memory themselves.
    """
    if hidden.device.type != "cpu" or type(hidden) not in _PLAIN or torch.compiler.is_compiling():
        return torch.empty((rows, vocab_size), dtype=dtype, device=hidden.device)
    buffer: Tensor | None = getattr(_kept, "buffer", None)
    if buffer is None or buffer.dtype != dtype or buffer.numel() < rows * vocab_size:
        _kept.buffer = None  # the old one goes before the new one comes
        with torch.inference_mode(False):
            buffer = _kept.buffer = torch.empty(rows * vocab_size, dtype=dtype)
    return buffer[: rows * vocab_size].view(rows, vocab_size)


def _is_graph_kept() -> bool:
    """Whether a backward pass that is under way was asked for with `retain_graph`, as far as PyTorch tells."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or torch.compiler.is_compiling() or ask()


def _summed_mean_logit(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Sum over rows of the mean over the vocabulary of the logits: linear, so no `(N, V)` is needed."""
    with torch.autocast(hidden.device.type, enabled=False):
        mean = torch.dot(full_precision(hidden).sum(dim=0), full_precision(weight).mean(dim=0))
        return mean if bias is None else mean + hidden.shape[0] * full_precision(bias).mean()
