"""Rows of all ranks in one tensor, through which gradients flow back to the ranks they came from."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lmmodules.parallel.reduce import all_gather_single, rank, reduce_scatter_single, world_size


class Gathered(NamedTuple):
    """The rows of all ranks.

    Attributes:
        rows: (N_0 + N_1 + ..., D), in the order of the ranks.
        start: Where this rank's rows begin.
    """

    rows: Tensor
    start: int


def gather_rows(rows: Tensor, group: dist.ProcessGroup | None = None) -> Gathered:
    """Put the rows of all ranks together; ranks may have different numbers of them, also none.

    The gradient of a row is the sum of what every rank's loss says of it, so that the sum of the ranks' losses has
    the gradients it would have in one process.

    Args:
        rows: (N, D) of this rank. D and the dtype are the same everywhere.
        group: The ranks to gather from; all of them by default. Every one must call, and run the backward pass.

    Returns:
        All rows and where ours begin; the rows themselves in a single process.
    """
    if world_size(group) == 1:
        return Gathered(rows, 0)
    counts = torch.zeros(world_size(group), dtype=torch.int64, device=rows.device)
    all_gather_single(counts, counts.new_tensor([len(rows)]), group=group)
    sizes: list[int] = counts.tolist()
    padded = torch.cat([rows, rows.new_zeros(max(sizes) - len(rows), *rows.shape[1:])])
    everyone: Tensor = _AllGather.apply(padded, group)  # type: ignore[no-untyped-call]
    by_rank = everyone.view(len(sizes), max(sizes), *rows.shape[1:])
    parts = [part[:size] for part, size in zip(by_rank, sizes, strict=True)]
    return Gathered(torch.cat(parts), sum(sizes[: rank(group)]))


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        everyone = rows.new_empty(world_size(group) * rows.shape[0], *rows.shape[1:])
        all_gather_single(everyone, rows.contiguous(), group=group)
        return everyone

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        own = gradient.new_empty(gradient.shape[0] // world_size(ctx.group), *gradient.shape[1:])
        reduce_scatter_single(own, gradient.contiguous(), group=ctx.group)
        return own, None
