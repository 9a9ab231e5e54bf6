"""Softmax cross-entropy of logits that are there already."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lmmodules.batch import IGNORED
from lmmodules.errors import InputError
from lmmodules.losses.precision import full_precision


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
    check_smoothing(label_smoothing)
    if logits.shape[:-1] != labels.shape:
        raise InputError(
            f"`labels` must have the shape of `logits` without its last dimension {tuple(logits.shape[:-1])}, "
            f"but has {tuple(labels.shape)}; give one label for each position"
        )
    total = F.cross_entropy(
        full_precision(logits).reshape(-1, logits.shape[-1]),
        labels.reshape(-1),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total, (labels != IGNORED).sum()


def check_smoothing(label_smoothing: float) -> None:
    """Refuse what is no share.

    Args:
        label_smoothing: Share of the target probability.

    Raises:
        InputError: When it lies outside of [0, 1).
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise InputError(f"`label_smoothing` must lie in [0, 1), but is {label_smoothing}; use 0.1, or 0 for none")
