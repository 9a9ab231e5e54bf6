"""The weighing of tasks by their own losses."""

from __future__ import annotations

import torch
from torch import Tensor


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
