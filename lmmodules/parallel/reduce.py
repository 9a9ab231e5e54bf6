"""Ranks, and means and sums over them; in one process everything here is a no-op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lmmodules.errors import InputError


def rank(group: dist.ProcessGroup | None = None) -> int:
    """Number of this process among those of a group, from 0; 0 without a process group."""
    return dist.get_rank(group) if _is_distributed() else 0


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Number of processes in a group, all of them by default; 1 without a process group."""
    return dist.get_world_size(group) if _is_distributed() else 1


def is_rank_zero() -> bool:
    """Whether this process is the one that prints and writes files."""
    return rank() == 0


def print_rank_zero(*values: Any) -> None:
    """Print on rank zero only, at once."""
    if is_rank_zero():
        print(*values, flush=True)


def reduce_losses(losses: Sequence[Tensor], group: dist.ProcessGroup | None = None) -> Tensor:
    """Average losses over ranks, all of them in one collective.

    This is a mean of per-rank means: it weighs ranks alike however many targets each had. Where targets differ in
    number, as with masked tokens, `reduce_sums` gives the mean per target.

    Args:
        losses: Scalars, on one device. Every rank gives equally many, in the same order.
        group: The ranks to average over; all of them by default.

    Returns:
        The averages, `(len(losses),)`, without gradient.

    Raises:
        InputError: If `losses` is empty or holds a tensor with more than one element.

    Source:
        `reduce_losses` of Megatron-LM (v1.0) and GPT-NeoX, `megatron/utils.py`.
    """
    if not losses or any(loss.numel() != 1 for loss in losses):
        raise InputError(
            f"`losses` must be one or more scalars, but has the shapes {[tuple(loss.shape) for loss in losses]}; "
            "reduce each loss to a scalar first"
        )
    packed = torch.stack([loss.detach().reshape(()) for loss in losses])  # a copy: the losses stay as they are
    if world_size(group) > 1:
        dist.all_reduce(packed, group=group)
        packed /= world_size(group)
    return packed


def reduce_sums(
    sums: Mapping[str, tuple[Tensor, Tensor | float]], group: dist.ProcessGroup | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Add up (sum, count) pairs over ranks, all of them in one collective.

    The quotient of a pair is then the mean per target over all ranks, whatever share of the targets each rank had.

    Args:
        sums: Pairs of scalars by name. Every rank gives the same names, in any order.
        group: The ranks to add over; all of them by default. Ranks that hold the same data must not be counted twice.

    Returns:
        The pairs added up, in float64 (float32 on devices without it), under the same names, without gradient.
    """
    if not sums:
        return {}
    device = next(iter(sums.values()))[0].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    names = sorted(sums)
    packed = torch.stack(
        [torch.as_tensor(value, device=device).detach().to(dtype).reshape(()) for name in names for value in sums[name]]
    ).view(-1, 2)
    if world_size(group) > 1:
        dist.all_reduce(packed, group=group)
    totals = dict(zip(names, packed, strict=True))
    return {name: (totals[name][0], totals[name][1]) for name in sums}


def all_gather_single(everyone: Tensor, own: Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Put the parts of all ranks into one tensor, one behind the other.

    Args:
        everyone: Where they go.
        own: This rank's part.
        group: The ranks; all of them by default.
    """
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # deprecated since torch 2.13
    gather(everyone, own, group=group)


def reduce_scatter_single(own: Tensor, summand: Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Leave each rank its part of the sum of all ranks' tensors.

    Args:
        own: Where this rank's part goes.
        summand: Of this rank, the parts one behind the other.
        group: The ranks; all of them by default.
    """
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor  # deprecated since torch 2.13
    scatter(own, summand, group=group)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
