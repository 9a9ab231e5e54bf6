"""What tensor-parallel ranks say to each other: each operator with the one that its gradient takes back.

    operator            forward             backward            in the paper
    copy_to_ranks       identity            all-reduce          f
    sum_over_ranks      all-reduce          identity            g
    gather_parts        all-gather          own part
    take_part           own part            all-gather
    gather_sequence     all-gather          reduce-scatter      f of sequence parallelism
    scatter_sum         reduce-scatter      all-gather          g of sequence parallelism

The first two keep an activation whole on every rank, the last two keep a part of the sequence on each.

Source:
    Shoeybi et al. 2019, "Megatron-LM", section 3, figure 3; Korthikanti et al. 2022, "Reducing Activation
    Recomputation in Large Transformer Models", section 4.2.2; Megatron-LM v1.0, `megatron/mpu/mappings.py`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from lmmodules.parallel.reduce import all_gather_single, reduce_scatter_single


def copy_to_ranks(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The tensor itself, whose gradient is the sum of what every rank's part of the network says of it.

    Args:
        tensor: Equal on all ranks.
        group: The tensor-parallel ranks.
    """
    return cast("Tensor", _Copy.apply(tensor, group))  # type: ignore[no-untyped-call]


def sum_over_ranks(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum of all ranks' tensors, equal on all of them from here on.

    Args:
        tensor: A summand.
        group: The tensor-parallel ranks.
    """
    return cast("Tensor", _Sum.apply(tensor, group))  # type: ignore[no-untyped-call]


def gather_parts(tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    """The parts of all ranks side by side, in front of computations that every rank makes alike.

    Args:
        tensor: This rank's part.
        group: The tensor-parallel ranks.
        dim: Where parts are put together.
    """
    return cast("Tensor", _GatherParts.apply(tensor, group, dim))  # type: ignore[no-untyped-call]


def take_part(tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    """This rank's part of a tensor that is equal on all of them.

    Args:
        tensor: Equal on all ranks; its size along `dim` is a multiple of their number.
        group: The tensor-parallel ranks.
        dim: Where it is divided.
    """
    return cast("Tensor", _TakePart.apply(tensor, group, dim))  # type: ignore[no-untyped-call]


def gather_sequence(tensor: Tensor, group: dist.ProcessGroup, dim: int = 1) -> Tensor:
    """The parts of all ranks side by side, in front of a matrix of which each rank has a part.

    Args:
        tensor: This rank's part.
        group: The tensor-parallel ranks.
        dim: Where parts are put together.
    """
    return cast("Tensor", _GatherSequence.apply(tensor, group, dim))  # type: ignore[no-untyped-call]


def scatter_sum(tensor: Tensor, group: dist.ProcessGroup, dim: int = 1) -> Tensor:
    """This rank's part of the sum of all ranks' tensors.

    Args:
        tensor: A summand, whole.
        group: The tensor-parallel ranks.
        dim: Where the sum is divided.
    """
    return cast("Tensor", _ScatterSum.apply(tensor, group, dim))  # type: ignore[no-untyped-call]


def all_gather(tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    """The parts of all ranks side by side, without gradient.

    Args:
        tensor: This rank's part; all parts have one shape.
        group: The ranks.
        dim: Where parts are put together.
    """
    size = dist.get_world_size(group)
    parts = tensor.new_empty(size * tensor.shape[0], *tensor.shape[1:])
    all_gather_single(parts, tensor.contiguous(), group=group)
    return torch.cat(parts.chunk(size), dim) if dim else parts


def _own_part(tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    return tensor.chunk(dist.get_world_size(group), dim)[dist.get_rank(group)].contiguous()


def _reduced(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def _reduced_part(tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    size = dist.get_world_size(group)
    parts = torch.cat(tensor.chunk(size, dim)) if dim else tensor.contiguous()
    own = tensor.new_empty(parts.shape[0] // size, *parts.shape[1:])
    reduce_scatter_single(own, parts, group=group)
    return own


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _reduced(gradient, ctx.group), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        return _reduced(tensor, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _GatherParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return all_gather(tensor, group, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _own_part(gradient, ctx.group, ctx.dim), None, None


class _TakePart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return _own_part(tensor, group, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return all_gather(gradient, ctx.group, ctx.dim), None, None


class _GatherSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return all_gather(tensor, group, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _reduced_part(gradient, ctx.group, ctx.dim), None, None


class _ScatterSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return _reduced_part(tensor, group, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return all_gather(gradient, ctx.group, ctx.dim), None, None
