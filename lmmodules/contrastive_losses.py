"""Losses of CLINE as pure functions: a text against its two views, and the weighing of tasks by their own losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def hard_negative_cross_entropy(positive: Tensor, negative: Tensor) -> Tensor:
    """Cross-entropy of finding the view that keeps the meaning, among all views that a text is compared with.

    With one of each it is `softplus(negative - positive)`.

    Args:
        positive: `(N,)` similarity of each text to its own positive view.
        negative: `(N, K)` similarities to the K views that are not to be found.

    Returns:
        The sum in nats.

    Source:
        Wang et al. 2021, CLINE, contrastive sentence loss (K = 1).
    """
    logits = torch.cat([positive[:, None], negative], dim=1)
    return (logits.logsumexp(1) - positive).sum()


def binary_contrast(positive: Tensor, negative: Tensor) -> Tensor:
    """Binary cross-entropy of telling positive from negative views by similarity, the mean of a text's two.

    Args:
        positive: `(N,)` similarities, logits of being the positive view.
        negative: `(N,)`.

    Returns:
        The sum over texts in nats.

    Source:
        kandorm/CLINE, `src/lecbert/modeling.py`.
    """
    return (F.softplus(-positive) + F.softplus(negative)).sum() / 2


def task_uncertainty(log_variances: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of tasks, `exp(-s)`, and the penalty `sum(max(s, 0))` that keeps them from vanishing.

    A task whose loss stays at L comes to weigh 1 / max(L, 1).

    Args:
        log_variances: `(J,)` trained numbers s.

    Returns:
        `(J,)` weights, and the penalty.

    Source:
        kandorm/CLINE, `src/lecbert/modeling.py`, after Kendall et al. 2018.
    """
    # Not relu: the gradient of a clamp at its bound is 1, which is where all tasks start.
    return torch.exp(-log_variances), log_variances.clamp(min=0).sum()
