"""Whether all ranks began with the same weights and read what they should: found out once, at the start."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lmmodules.errors import InputError

DIGEST = "blake2b "
"""What stands before a digest in place of a long value."""


def check_weights(module: nn.Module) -> None:
    """Compare a checksum of all parameters over all ranks, before any is divided.

    Ranks that take parts of different networks train none of them, without any error.

    Args:
        module: Whole on every rank.

    Raises:
        InputError: On every rank, when two differ.
    """
    sums = [checksum(parameter.detach()) for parameter in module.parameters() if parameter.device.type != "meta"]
    if sums and not _agree(torch.stack(sums).sum()[None]):
        raise InputError(
            "the weights that ranks start from must be the same, but differ; use the same `seed` on all of them"
        )


def check_orders(orders: Mapping[str, object]) -> None:
    """Compare what ranks were told to do, before they begin.

    Ranks with another seed take some samples twice and others never, and ranks with other data average gradients of
    two runs; nothing of that is an error by itself.

    Args:
        orders: What must be the same everywhere, by name. Equal things print alike.

    Raises:
        InputError: On every rank, when two differ, naming the first such thing.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    theirs: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(theirs, {name: _in_short(value) for name, value in orders.items()})
    for name in dict.fromkeys(name for one in theirs for name in one):
        values = [one.get(name, "nothing") for one in theirs]
        other = next((rank for rank, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            short = not values[0].startswith(DIGEST) and not values[other].startswith(DIGEST)
            found = f": {values[0]} on rank 0 and {values[other]} on rank {other}" if short else ""
            raise InputError(
                f"`{name}` must be the same on all ranks, but differs between rank 0 and rank {other}{found}; start "
                "every process with the same command on the same files"
            )


def check_batch(tensors: Sequence[Tensor], group: dist.ProcessGroup) -> None:
    """Compare a batch over ranks that must share it.

    Args:
        tensors: Of the batch.
        group: The tensor-parallel ranks.

    Raises:
        InputError: On every rank, when two differ.
    """
    sums = torch.stack([checksum(tensor).cpu() for tensor in tensors])
    if not _agree(sums, group):
        raise InputError(
            "tensor-parallel ranks must read the same batch, but theirs differ; use the same `seed` and `data` on all "
            "of them"
        )


def checksum(tensor: Tensor) -> Tensor:
    """A number (float64, on the processor) that changes with any element and with the order of them.

    Args:
        tensor: Of any shape and type.
    """
    flat = tensor.flatten().double()
    weights = torch.arange(1, len(flat) + 1, device=flat.device, dtype=torch.float64).mul_(0.7390851).sin_()
    return torch.dot(flat, weights).cpu() + len(flat)


def _in_short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 30 else DIGEST + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _agree(numbers: Tensor, group: dist.ProcessGroup | None = None) -> bool:
    """Whether all ranks have the same numbers; the shapes may differ too."""
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return True
    theirs: list[list[float]] = [[] for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(theirs, numbers.tolist(), group=group)
    return all(numbers == theirs[0] for numbers in theirs)
