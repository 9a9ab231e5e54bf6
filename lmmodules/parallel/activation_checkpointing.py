"""Blocks that keep their input alone, and compute the rest again when the backward pass needs it."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lmmodules.models.block import Block


class RecomputedBlock(Block):
    """A block that runs its forward pass twice, and keeps nothing in between.

    Source:
        Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; Shoeybi et al. 2019, section 4.3, after
        every layer.
    """

    def forward(self, *arguments: Any) -> Tensor:
        """See `Block`."""
        if not self.training:
            return super().forward(*arguments)
        return cast("Tensor", checkpoint(super().forward, *arguments, use_reentrant=False))


def recompute_blocks(module: nn.Module) -> None:
    """Make every block of a network keep its input alone. Numbers stay the same, dropout included.

    Args:
        module: An objective, or anything that has blocks.
    """
    for part in module.modules():
        if type(part) is Block:
            part.__class__ = RecomputedBlock
