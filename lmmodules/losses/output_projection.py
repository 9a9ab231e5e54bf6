"""What the losses that begin with an output projection share: what they accept, and how many rows go at once."""

from __future__ import annotations

from torch import Tensor

from lmmodules.errors import InputError


def check_shapes(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> None:
    """Refuse what does not fit together.

    Args:
        hidden: `(N, D)` features.
        weight: `(V, D)` output projection.
        labels: `(N,)` target ids.
        bias: `(V,)` or none.

    Raises:
        InputError: When a shape is another.
    """
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


def rows_per_chunk(vocab_size: int, device_type: str) -> int:
    """Rows that keep the matrix products efficient and the buffer of a chunk small.

    256 rows fill a processor's matrix units, and with 512 the gradient of a large output matrix is read and written
    half as often; an accelerator needs more. A small vocabulary affords more rows within 4 Mi logits, so that short
    products do not drown in the cost of starting them.

    Args:
        vocab_size: Columns of the product V.
        device_type: `cpu` or the name of an accelerator.
    """
    return max(512 if device_type == "cpu" else 2048, min(2**22 // vocab_size, 4096))
