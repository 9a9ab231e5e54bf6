"""Which ranks hold different data, and how parameters are spread over a device mesh."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

DATA_AXIS = "data_parallel"
TENSOR_AXIS = "tensor_parallel"


@dataclass(frozen=True)
class Spread:
    """How a strategy wants a network spread, besides the sizes of its mesh.

    Args:
        sharded: Whether parameters are sharded over the data axis even where it has one rank only.
        sequence_parallel: Whether tensor-parallel ranks divide the sequence between their matrices.
        activation_checkpointing: Whether a block's activations are computed again in the backward pass.
        cpu_offload: Whether shards of parameters, gradients and optimizer states are kept by the processor, which
            updates them; devices are given parameters while they need them.
        gathered_dtype: In which shards of parameters are gathered; `None` for their own. Gradients are summed in
            float32 in any case.
    """

    sharded: bool = False
    sequence_parallel: bool = False
    activation_checkpointing: bool = False
    cpu_offload: bool = False
    gathered_dtype: torch.dtype | None = None


def device_mesh(module: nn.Module) -> DeviceMesh | None:
    """The device mesh that the strategy gave a LightningModule, or `None` where it brought none."""
    return getattr(module, "_device_mesh", None)


def data_parallel_group(module: nn.Module) -> dist.ProcessGroup | None:
    """The ranks that hold different data; `None` means all of them.

    Ranks that share a batch, as in tensor parallelism, must be counted once, so sums are reduced over this group only.
    """
    mesh = device_mesh(module)
    return None if mesh is None else mesh[DATA_AXIS].get_group()


def shard_over_mesh(module: nn.Module, spread: Spread | None = None) -> None:
    """Spread an objective over its mesh: matrices over the tensor axis, and then everything over the data axis (FSDP2).

    Does nothing without a mesh, or when called again: Lightning calls `configure_model` for every entry point.

    Args:
        module: An objective.
        spread: How; `None` for what its trainer's strategy says, or the defaults.

    Raises:
        InputError: When the ranks did not start from the same weights, or the network cannot be divided.
    """
    mesh = device_mesh(module)
    if mesh is None or getattr(module, "_is_spread", False):
        return
    from lmmodules.parallel.agreement import check_weights

    if spread is None:
        trainer = getattr(module, "_trainer", None)
        spread = getattr(getattr(trainer, "strategy", None), "spread", None) or Spread()
    check_weights(module)
    if mesh[TENSOR_AXIS].size() > 1:
        from lmmodules.parallel.tensor_parallel import parallelize  # which knows the modules of `lmmodules.models`

        parallelize(module, mesh[TENSOR_AXIS], sequence_parallel=spread.sequence_parallel)
    if spread.activation_checkpointing:
        from lmmodules.parallel.activation_checkpointing import recompute_blocks

        recompute_blocks(module)
    if mesh[DATA_AXIS].size() > 1 or spread.sharded:
        _shard(module, mesh[DATA_AXIS], spread)
    module._is_spread = True  # type: ignore[assignment]


def _shard(module: nn.Module, axis: DeviceMesh, spread: Spread) -> None:
    if isinstance(module, FSDPModule):
        return
    offload = CPUOffloadPolicy(pin_memory=axis.device_type != "cpu") if spread.cpu_offload else OffloadPolicy()
    precision = MixedPrecisionPolicy(
        param_dtype=spread.gathered_dtype, reduce_dtype=None if spread.gathered_dtype is None else torch.float32
    )
    for block in module.backbone.blocks:  # type: ignore[union-attr]
        fully_shard(block, mesh=axis, mp_policy=precision, offload_policy=offload)
    # A batch holds numbers that must keep their digits, such as draws.
    precision = replace(precision, cast_forward_inputs=False)
    fully_shard(module, mesh=axis, mp_policy=precision, offload_policy=offload)
    # Lightning calls steps, not `forward`, and parameters outside of the blocks are gathered where one begins.
    for step in ("training_step", "validation_step"):
        register_fsdp_forward_method(module, step)


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory; a plain tensor is its own part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor, gathered if it is spread over a mesh."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
