"""How likely one of k attempts is right, estimated from n."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmmodules.errors import InputError


def pass_at_k(num_samples: int, num_correct: Sequence[int], k: int) -> float:
    """The mean over tasks of the chance that of k attempts at least one is right.

    Of a task with c right ones among n attempts it is the share of all choices of k among them that hold a right one,
    ``1 - C(n - c, k) / C(n, k)``, whose expectation is the chance itself, whatever n.

    Args:
        num_samples: Attempts at each task, n.
        num_correct: Right ones of each task, c.
        k: Attempts that are allowed.

    Raises:
        InputError: When k is not between 1 and n, a count not between 0 and n, or there is no task.

    Source:
        Chen et al. 2021, "Evaluating Large Language Models Trained on Code", section 2.1.
    """
    if not 1 <= k <= num_samples:
        raise InputError(
            f"`k` must lie between 1 and the number of samples per task ({num_samples}), but is {k}; "
            f"use `num_samples={max(k, 1)}`"
        )
    if not len(num_correct) or min(num_correct) < 0 or max(num_correct) > num_samples:
        raise InputError(f"`num_correct` must hold a number between 0 and {num_samples} for each of one or more tasks")
    attempts = np.arange(k)
    # C(n - c, k) / C(n, k), factor by factor; one factor is 0 where fewer than k attempts were wrong.
    wrong = num_samples - np.array(num_correct)[:, None] - attempts
    return float(1 - np.prod(np.maximum(wrong, 0) / (num_samples - attempts), axis=1).mean())
