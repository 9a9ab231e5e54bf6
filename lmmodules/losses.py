"""Losses as pure functions of tensors: each returns a sum and a count, and whoever has all ranks' counts divides."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmmodules.batch import IGNORED
from lmmodules.errors import InputError

_LOW_PRECISION = (torch.float16, torch.bfloat16)


def token_cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Sums the cross-entropy of every labelled position.

    Args:
        logits: `(..., V)` scores over the vocabulary. Half precision is summed in float32.
        labels: `(...)` target ids; positions with label -100 are left out.
        label_smoothing: Share of the target probability spread evenly over the vocabulary, in [0, 1).

    Returns:
        The sum in nats, and the number of labelled positions (int64). Without a label the sum is 0, connected to the
        graph with zero gradients.

    Raises:
        InputError: If the shapes do not fit together or `label_smoothing` is not in [0, 1).
    """
    _check_smoothing(label_smoothing)
    if logits.shape[:-1] != labels.shape:
        raise InputError(
            f"`labels` must have the shape of `logits` without its last dimension {tuple(logits.shape[:-1])}, "
            f"but has {tuple(labels.shape)}; give one label for each position"
        )
    total = F.cross_entropy(
        _full_precision(logits).reshape(-1, logits.shape[-1]),
        labels.reshape(-1),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total, (labels != IGNORED).sum()


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
        with_accuracy: Also return the number of rows whose largest logit is that of the label.

    Returns:
        The sum in nats, the number of labelled rows (int64) and, if asked for, the number of correct ones (int64).
        Without a label the sum is 0, connected to the graph with zero gradients.

    Raises:
        InputError: If the shapes do not fit together, `chunk_rows` is not positive, or `label_smoothing` is not in
            [0, 1).
    """
    _check_smoothing(label_smoothing)
    _check_shapes(hidden, weight, labels, bias)
    if chunk_rows is None:
        chunk_rows = _rows_per_chunk(weight.shape[0], hidden.device.type)
    elif chunk_rows < 1:
        raise InputError(f"`chunk_rows` must be at least 1, but is {chunk_rows}; leave it out to have it chosen")

    labelled = (labels != IGNORED).nonzero().squeeze(-1)
    if labelled.numel() < labels.numel():
        hidden, labels = hidden[labelled], labels[labelled]
    count = torch.full((), labels.numel(), device=labels.device)

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
        grad_weight = torch.zeros(weight.shape, dtype=sum_dtype, device=device) if needs_weight else None
        grad_bias = torch.zeros(vocab_size, dtype=sum_dtype, device=device) if needs_bias else None
        total = torch.zeros((), dtype=sum_dtype, device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)

        # Autocast does not reach products that write into a buffer, so its dtype is applied here by hand.
        product_dtype = hidden.dtype
        if torch.is_autocast_enabled(device.type) and sum_dtype == torch.float32:
            product_dtype = torch.get_autocast_dtype(device.type)
        with torch.autocast(device.type, enabled=False):
            inputs, projection = hidden.to(product_dtype), weight.to(product_dtype)
            offset = None if bias is None else bias.to(product_dtype)
            buffer_shape = (min(chunk_rows, num_rows), vocab_size)
            logits_buffer = torch.empty(buffer_shape, dtype=product_dtype, device=device)
            softmax_buffer = torch.empty(buffer_shape, dtype=sum_dtype, device=device)

            for start in range(0, num_rows, chunk_rows):
                rows = slice(start, min(start + chunk_rows, num_rows))
                features, targets = inputs[rows], labels[rows, None]
                logits = logits_buffer[: features.shape[0]]
                softmax = softmax_buffer[: features.shape[0]]

                if offset is None:
                    torch.mm(features, projection.T, out=logits)
                else:
                    torch.addmm(offset, features, projection.T, out=logits)
                if with_accuracy:
                    peak, best = logits.max(dim=-1)
                    correct += (best == targets[:, 0]).sum()
                else:
                    peak = logits.amax(dim=-1)
                torch.softmax(logits, dim=-1, dtype=sum_dtype, out=softmax)
                # The softmax at the peak is 1 / sum(exp(logits - peak)): at least 1 / V, so its logarithm is exact.
                log_normaliser = peak.to(sum_dtype) - softmax.amax(dim=-1).log()
                label_logits = logits.gather(1, targets)[:, 0].to(sum_dtype)
                total += (log_normaliser - target_weight * label_logits).sum()

                if not (needs_hidden or needs_weight or needs_bias):
                    continue
                softmax.scatter_add_(1, targets, softmax.new_full(targets.shape, -target_weight))
                grad_logits = softmax if softmax.dtype == product_dtype else logits.copy_(softmax)
                if grad_hidden is not None:
                    grad_hidden[rows] = grad_logits @ projection
                if grad_weight is not None:
                    if grad_weight.dtype == product_dtype:
                        grad_weight.addmm_(grad_logits.T, features)
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
        gradients = tuple(None if grad is None else grad * grad_total for grad in ctx.saved_tensors)
        return (*gradients, None, None, None, None, None)


def _summed_mean_logit(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Sum over rows of the mean over the vocabulary of the logits: linear, so no `(N, V)` is needed."""
    with torch.autocast(hidden.device.type, enabled=False):
        mean = torch.dot(_full_precision(hidden).sum(dim=0), _full_precision(weight).mean(dim=0))
        return mean if bias is None else mean + hidden.shape[0] * _full_precision(bias).mean()


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _LOW_PRECISION else tensor


def _rows_per_chunk(vocab_size: int, device_type: str) -> int:
    """Rows that keep the matrix products efficient and the two buffers of a chunk small.

    256 rows fill a processor's matrix units; an accelerator needs more. A small vocabulary affords more rows within
    4 Mi logits, so that short products do not drown in the cost of starting them.
    """
    return max(256 if device_type == "cpu" else 2048, min(2**22 // vocab_size, 4096))


def _check_smoothing(label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        raise InputError(f"`label_smoothing` must lie in [0, 1), but is {label_smoothing}; use 0.1, or 0 for none")


def _check_shapes(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> None:
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise InputError(
            f"`hidden` (N, D) and `weight` (V, D) must be matrices with the same D, but are {tuple(hidden.shape)} and "
            f"{tuple(weight.shape)}; flatten batch and length into N"
        )
    if labels.shape != hidden.shape[:1]:
        raise InputError(
            f"`labels` must have one entry for each of the {hidden.shape[0]} rows of `hidden`, but has the shape "
            f"{tuple(labels.shape)}; flatten batch and length into N"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(
            f"`bias` must have one entry for each of the {weight.shape[0]} rows of `weight`, but has the shape "
            f"{tuple(bias.shape)}; leave it out for a projection without bias"
        )
