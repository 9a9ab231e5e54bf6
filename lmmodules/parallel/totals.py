"""Running (sum, count) pairs, reduced over ranks only when somebody asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Term(NamedTuple):
    """One part of a loss, or a metric that is not optimised.

    A mean is formed late, as `sum / count` over all ranks and accumulated batches, so that a target weighs the same
    wherever it was seen; a mean of means would not.
    """

    sum: Tensor  # scalar; for a loss, nats summed over its targets
    count: Tensor | float  # type: ignore[assignment]  # number of targets; no tuple method is needed here
    weight: float = 1.0  # share in the optimised loss; 0 for a metric that is only watched


class Totals:
    """Sums and counts of named terms since the last collection.

    Adding is a few scalar operations on the device and never a synchronisation. Collecting packs every pair into one
    tensor and reduces it with one collective, however many terms and batches went in.
    """

    def __init__(self) -> None:
        self._pairs: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    def add(self, terms: Mapping[str, Term]) -> None:
        """Add the terms of one batch, without gradients."""
        for name, term in terms.items():
            total = term.sum.detach()
            # float64 keeps a whole validation set exact; devices without it fall back to float32.
            dtype = torch.float32 if total.device.type == "mps" else torch.float64
            pair = torch.empty(2, dtype=dtype, device=total.device)
            pair[0], pair[1] = total, term.count
            previous = self._pairs.get(name)
            self._pairs[name] = pair if previous is None else previous.add_(pair)
            self._weights[name] = term.weight

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def collect(self, group: dist.ProcessGroup | None = None) -> dict[str, float]:
        """Reduce over the ranks of `group`, return the mean of each term, and start anew.

        The optimised loss, the weighted sum of the means, comes under the name `loss`. Every rank must call this at
        the same step, with the same terms.

        Args:
            group: Ranks that hold different data; `None` for all of them.

        Returns:
            Mean of each term by name, in the order in which the terms were first added; empty if nothing was. What is
            only watched and had no target anywhere has no mean and is left out.
        """
        if not self._pairs:
            return {}
        device = next(iter(self._pairs.values())).device  # the norm of gradients that a processor keeps is there
        packed = torch.stack([pair.to(device) for pair in self._pairs.values()])  # (terms, 2)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1:
            dist.all_reduce(packed, group=group)
        sums, counts = packed.T.tolist()
        result = {
            name: total / max(count, 1)
            for name, total, count in zip(self._pairs, sums, counts, strict=True)
            if count or self._weights[name]
        }
        optimised = [name for name, weight in self._weights.items() if weight]
        if optimised != ["loss"]:
            result["loss"] = sum(self._weights[name] * result[name] for name in optimised)
        self._pairs.clear()
        self._weights.clear()
        return result

    def clear(self) -> None:
        """Forget what was added."""
        self._pairs.clear()
        self._weights.clear()
