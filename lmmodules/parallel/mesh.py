"""Which ranks hold different data, and how parameters are spread over a device mesh."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

DATA_AXIS = "data_parallel"


def device_mesh(module: nn.Module) -> DeviceMesh | None:
    """The device mesh that the strategy gave a LightningModule, or `None` where it brought none."""
    return getattr(module, "_device_mesh", None)


def data_parallel_group(module: nn.Module) -> dist.ProcessGroup | None:
    """The ranks that hold different data; `None` means all of them.

    Ranks that share a batch, as in tensor parallelism, must be counted once, so sums are reduced over this group only.
    """
    mesh = device_mesh(module)
    return None if mesh is None else mesh[DATA_AXIS].get_group()


def shard_over_mesh(module: nn.Module) -> None:
    """Shard the parameters of an objective over the data axis of its mesh (FSDP2), block by block.

    Does nothing without a mesh, on a data axis of one rank, or when called again: Lightning calls `configure_model`
    for every entry point.
    """
    mesh = device_mesh(module)
    if mesh is None or mesh[DATA_AXIS].size() == 1 or isinstance(module, FSDPModule):
        return
    axis = mesh[DATA_AXIS]
    for block in module.backbone.blocks:  # type: ignore[union-attr]
        fully_shard(block, mesh=axis)
    fully_shard(module, mesh=axis)
    # Lightning calls steps, not `forward`, and parameters outside of the blocks are gathered where one begins.
    for step in ("training_step", "validation_step"):
        register_fsdp_forward_method(module, step)


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory; a plain tensor is its own part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor, gathered if it is spread over a mesh."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
