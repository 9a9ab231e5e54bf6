"""Losses as pure functions of tensors: each returns a sum and a count, and whoever has all ranks' counts divides."""

from __future__ import annotations

import threading
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmmodules.batch import IGNORED
from lmmodules.errors import InputError
from lmmodules.parallel import vocabulary_parallel

_LOW_PRECISION = (torch.float16, torch.bfloat16)
_UNIFORM = 1.001
"""Probability of the likeliest token, times their number, up to which none is preferred and so none is right."""
_PLAIN = (Tensor, torch.nn.Parameter)


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
        with_accuracy: Also return the number of rows whose largest logit is that of the label. Where all logits of a
            row are equal, none is.

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

        # Autocast does not reach products that write into a buffer, so its dtype is applied here by hand.
        product_dtype = hidden.dtype
        if torch.is_autocast_enabled(device.type) and sum_dtype == torch.float32:
            product_dtype = torch.get_autocast_dtype(device.type)
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
                if with_accuracy and product_dtype in _LOW_PRECISION:  # in which several may be the largest
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
        mean = torch.dot(_full_precision(hidden).sum(dim=0), _full_precision(weight).mean(dim=0))
        return mean if bias is None else mean + hidden.shape[0] * _full_precision(bias).mean()


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _LOW_PRECISION else tensor


def _rows_per_chunk(vocab_size: int, device_type: str) -> int:
    """Rows that keep the matrix products efficient and the buffer of a chunk small.

    256 rows fill a processor's matrix units, and with 512 the gradient of a large output matrix is read and written
    half as often; an accelerator needs more. A small vocabulary affords more rows within 4 Mi logits, so that short
    products do not drown in the cost of starting them.
    """
    return max(512 if device_type == "cpu" else 2048, min(2**22 // vocab_size, 4096))


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
    _check_shapes(hidden, weight, labels, bias)
    chunk_rows = chunk_rows or _rows_per_chunk(weight.shape[0], hidden.device.type)
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
        product_dtype = hidden.dtype
        if torch.is_autocast_enabled(device) and sum_dtype == torch.float32:
            product_dtype = torch.get_autocast_dtype(device)
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


def detection_cross_entropy(
    logits: Tensor, originals: Tensor, counted: Tensor | None = None
) -> tuple[Tensor, Tensor | float]:
    """Sums the binary cross-entropy of telling original tokens from replaced ones.

    Args:
        logits: `(N,)` of the probability that a token is the original.
        originals: `(N,)` bool, whether it is.
        counted: `(N,)` bool, which positions are tokens and not padding; all when left out.

    Returns:
        The sum in nats and the number of counted positions.
    """
    weight = None if counted is None else counted.to(torch.promote_types(logits.dtype, torch.float32))
    logits = _full_precision(logits)
    total = F.binary_cross_entropy_with_logits(logits, originals.to(logits.dtype), weight=weight, reduction="sum")
    return total, logits.numel() if counted is None else counted.sum()


def weighted_correction(nats: Tensor, copy_logits: Tensor) -> Tensor:
    """Cross-entropies times the probability that the token is not to be copied, which is held constant.

    Args:
        nats: `(M,)` cross-entropies of the original tokens under the language-model head.
        copy_logits: `(M,)` logits of the copy head; no gradient goes there.

    Returns:
        The sum in nats.

    Source:
        Meng et al. 2021, COCO-LM, as the first author posted the loss in microsoft/COCO-LM, issue 2.
    """
    return (torch.sigmoid(-_full_precision(copy_logits.detach())) * nats).sum()


def mixture_correction(nats: Tensor, copy_logits: Tensor, originals: Tensor) -> Tensor:
    """Cross-entropy of the original tokens under the mixture of copying and writing, whose share is held constant.

    `-log(p [the token is the original] + (1 - p) q)`, where p is the probability of copying and q that of the original
    under the language-model head.

    Args:
        nats: `(M,)` cross-entropies `-log q`.
        copy_logits: `(M,)` logits of the copy head; no gradient goes there.
        originals: `(M,)` bool, whether the token that would be copied is the original.

    Returns:
        The sum in nats.

    Source:
        Meng et al. 2021, COCO-LM, section 3, corrective language modeling.
    """
    logits = _full_precision(copy_logits.detach())
    copied = torch.where(originals, F.logsigmoid(logits), float("-inf"))
    written = F.logsigmoid(-logits) - nats
    return -torch.logaddexp(copied, written).sum()


def contrastive_cross_entropy(
    embeddings: Tensor, *, temperature: float = 1.0, keys: Tensor | None = None, start: int = 0
) -> tuple[Tensor, int, Tensor]:
    """Sums, over the rows, the cross-entropy of finding a row's partner among all others by their dot products.

    Products are float32 at least, also under autocast: a temperature magnifies what they were rounded by.

    Args:
        embeddings: `(N, D)` of N / 2 pairs: the partner of row i is row i + N / 2, and the other way round.
        temperature: Dot products are divided by it.
        keys: `(K, D)` among which partners are sought, such as those of all ranks; the embeddings when left out.
        start: Row of `keys` at which the embeddings themselves stand.

    Returns:
        The sum in nats, N, and the number of rows whose partner had the largest product (int64).

    Source:
        Chen et al. 2020, SimCLR, algorithm 1; Meng et al. 2021, COCO-LM, section 3, sequence contrastive learning.
    """
    embeddings = _full_precision(embeddings)
    keys = embeddings if keys is None else _full_precision(keys)
    own = torch.arange(len(embeddings), device=embeddings.device)
    partners = start + (own + len(own) // 2) % max(len(own), 1)
    with torch.autocast(embeddings.device.type, enabled=False):
        logits = embeddings @ keys.T / temperature
    is_self = torch.arange(len(keys), device=keys.device) == (start + own)[:, None]
    logits = logits.masked_fill(is_self, float("-inf"))
    hits = (logits.argmax(-1) == partners).sum() if len(own) else own.sum()
    return F.cross_entropy(logits, partners, reduction="sum"), len(own), hits
