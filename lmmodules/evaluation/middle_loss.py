"""How likely a model holds what stood in a gap."""

from __future__ import annotations

from collections.abc import Sequence

from lmmodules.evaluation.continuations import likelihoods
from lmmodules.evaluation.generation import Writer


def middle_loss(
    model: Writer, prompts: Sequence[Sequence[int]], middles: Sequence[Sequence[int]], *, batch_size: int
) -> float:
    """Cross-entropy of middles behind their prompts, and of nothing else.

    Args:
        model: A backbone and a head, in evaluation mode.
        prompts: Tokens before each middle, at least one.
        middles: Tokens of each middle.
        batch_size: Gaps that are scored together.

    Returns:
        Nats per token over all middles.

    Source:
        Bavarian et al. 2022, section 2.2: P(middle | prefix, suffix) against P(middle | prefix).
    """
    nats = sum(found.nats for found in likelihoods(model, prompts, middles, batch_size=batch_size))
    return -nats / max(sum(map(len, middles)), 1)
