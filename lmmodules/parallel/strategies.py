"""Lightning strategies as this package uses them: one mesh of two axes, whose sizes are all that differs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lmmodules.errors import InputError
from lmmodules.parallel.agreement import check_batch
from lmmodules.parallel.mesh import TENSOR_AXIS, Spread
from lmmodules.parallel.replacing import partial_of, put_in_place, remove
from lmmodules.parallel.sharded_checkpoint import by_name, check_complete, damage_told, is_sharded

FAST_PATHS = ("fused", "foreach")
"""Options of torch's optimizers that take all parameters at once, which must then be of one kind."""


class MeshStrategy(ModelParallelStrategy):
    """Matrices spread over a tensor axis, and parameters, gradients and optimizer states over a data axis.

    Lightning's mesh strategy; `shard_over_mesh` spreads over it. Neighbouring ranks share a tensor axis, and all that
    is left over is the data axis.

    Args:
        tensor_parallel_size: Ranks that share every matrix, and the batch.
        data_parallel: Whether there may be ranks left over, over which everything is sharded (FSDP2).
        sequence_parallel: Whether ranks of the tensor axis divide the sequence, too, between their matrices.
        activation_checkpointing: Whether blocks keep their input alone for the backward pass.
        cpu_offload: Whether the processor keeps and updates shards, and devices have parameters while they need them.
        save_distributed_checkpoint: Whether each process writes its own part into a directory, instead of process
            zero writing one file.

    Raises:
        InputError: When a size is not positive; at the start, when the processes do not make up a mesh.
    """

    def __init__(
        self,
        tensor_parallel_size: int = 1,
        *,
        data_parallel: bool = True,
        sequence_parallel: bool = False,
        activation_checkpointing: bool = False,
        cpu_offload: bool = False,
        save_distributed_checkpoint: bool = False,
    ) -> None:
        if tensor_parallel_size < 1:
            raise InputError(
                f"`strategy.tensor_parallel_size` must be at least 1, but is {tensor_parallel_size}; "
                "use `strategy.tensor_parallel_size=2`"
            )
        if sequence_parallel and tensor_parallel_size == 1:
            raise InputError(
                "`strategy.sequence_parallel` divides a sequence among tensor-parallel ranks, but there is 1; use "
                "`strategy.tensor_parallel_size=2` or `strategy.sequence_parallel=false`"
            )
        super().__init__(
            tensor_parallel_size=tensor_parallel_size, save_distributed_checkpoint=save_distributed_checkpoint
        )
        if cpu_offload and not data_parallel:
            raise InputError(
                "`strategy.cpu_offload` keeps shards of a data axis, but `strategy=tensor_parallel` has none; use "
                "`strategy=fsdp_tensor_parallel`"
            )
        self.data_parallel = data_parallel
        self._spread = Spread(
            sharded=data_parallel,
            sequence_parallel=sequence_parallel,
            activation_checkpointing=activation_checkpointing,
            cpu_offload=cpu_offload,
        )
        self._batch_checked = False

    @property
    def spread(self) -> Spread:
        """How the network is spread. In mixed precision of bfloat16, parameters are gathered in it."""
        mixed = self.precision_plugin.precision == "bf16-mixed"
        return replace(self._spread, gathered_dtype=torch.bfloat16 if mixed else None)

    def setup_environment(self) -> None:
        """Put what the tensor axis leaves over on the data axis; only now it is known how many processes there are.

        Raises:
            InputError: When the processes do not make up a mesh.
        """
        processes, size = self.num_nodes * self.num_processes, self._tensor_parallel_size
        assert isinstance(size, int)
        if processes % size or (processes != size and not self.data_parallel):
            remedy = "" if processes % size else " or `strategy=fsdp_tensor_parallel`"
            raise InputError(
                f"`trainer.devices` times `trainer.num_nodes` must be "
                f"{'a multiple of ' if self.data_parallel else ''}`strategy.tensor_parallel_size` ({size}), but is "
                f"{processes}; use `trainer.devices={size}`{remedy}"
            )
        self._data_parallel_size = processes // size
        if self._spread.cpu_offload and self.root_device.type == "cuda":
            self._process_group_backend = "cuda:nccl,cpu:gloo"  # the norm of gradients is summed where they are
        super().setup_environment()

    def model_to_device(self) -> None:
        """Leave shards where they are kept; sharding has moved all else."""
        if not self._spread.cpu_offload:
            super().model_to_device()

    def setup_optimizers(self, trainer: Trainer) -> None:
        """Build the optimizers; where plain tensors and tensors of several meshes meet, they update one at a time."""
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            update_one_by_one(optimizer)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Compare the first batch over the ranks that must share it, and go on."""
        if not self._batch_checked:
            self._batch_checked = True
            batch = args[0]
            if self.device_mesh[TENSOR_AXIS].size() > 1 and isinstance(batch, dict):
                tensors = [batch[name] for name in sorted(batch) if isinstance(batch[name], Tensor)]
                check_batch(tensors, self.device_mesh[TENSOR_AXIS].get_group())
        return super().training_step(*args, **kwargs)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Save; parts are written beside the final name, which they get when all of them are on the disk.

        Until then the name stays with the checkpoint before, and afterwards for a moment the name with `.replaced`.

        Args:
            checkpoint: What to save.
            filepath: The file, or the directory of the parts.
            storage_options: Not used.
        """
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, os.fspath(filepath), storage_options)
            return
        target = Path(self.broadcast(str(filepath)))
        if self.is_global_zero:
            remove(partial_of(target))
        self.barrier()
        super().save_checkpoint(checkpoint, partial_of(target), storage_options)
        self.barrier()
        if self.is_global_zero:
            put_in_place(target)
        self.barrier()

    def load_checkpoint(
        self, checkpoint_path: str | os.PathLike[str], weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load the parts that this rank needs, whatever mesh they were written on, or of one file.

        Args:
            checkpoint_path: A file, or the directory of the parts.
            weights_only: See `torch.load`.

        Raises:
            InputError: When a part is missing or damaged.
        """
        paths = [
            [{path: group.get(path) for path in FAST_PATHS} for group in it.param_groups] for it in self.optimizers
        ]
        if is_sharded(checkpoint_path):
            check_complete(checkpoint_path)
            with damage_told(checkpoint_path):
                checkpoint = super().load_checkpoint(os.fspath(checkpoint_path), weights_only)
        else:
            checkpoint = self._load_file(checkpoint_path, weights_only)
        # Which paths can be taken is a matter of this mesh, and not of the one that the checkpoint was written on.
        for optimizer, chosen in zip(self.optimizers, paths, strict=True):
            for group, choice in zip(optimizer.param_groups, chosen, strict=False):
                group.update({path: taken for path, taken in choice.items() if path in group})
        return checkpoint

    def _load_file(self, path: str | os.PathLike[str], weights_only: bool | None) -> dict[str, Any]:
        """Load one file, in which parameters of the optimizer have numbers.

        Lightning takes them for those of the parameters of the module, of which groups of parameters make another
        order.
        """
        optimizers, self.optimizers = self.optimizers, []
        try:
            checkpoint = super().load_checkpoint(os.fspath(path), weights_only)
        finally:
            self.optimizers = optimizers
        assert self.model is not None
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        for optimizer, state in zip(
            optimizers, checkpoint.get("optimizer_states", ()), strict=False
        ):  # none to validate
            groups = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
            set_optimizer_state_dict(self.model, optimizer, optim_state_dict=by_name(state, groups), options=options)
        return checkpoint


class FSDP2Strategy(MeshStrategy):
    """Parameters, gradients and optimizer states sharded over all processes.

    The mesh with every process on the data axis. Lightning's own `FSDPStrategy` is the older FSDP, which has no CPU
    backend and no clipping by norm.

    Args:
        save_distributed_checkpoint: Whether each process writes its own part into a directory, instead of process
            zero writing one file.
        activation_checkpointing: Whether blocks keep their input alone for the backward pass.
        cpu_offload: Whether the processor keeps and updates shards, and devices have parameters while they need them.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = False,
        *,
        activation_checkpointing: bool = False,
        cpu_offload: bool = False,
    ) -> None:
        super().__init__(
            1,
            activation_checkpointing=activation_checkpointing,
            cpu_offload=cpu_offload,
            save_distributed_checkpoint=save_distributed_checkpoint,
        )


def update_one_by_one(optimizer: Optimizer) -> None:
    """Take the fast paths from an optimizer whose parameters they refuse: those of more than one mesh, or of none.

    Args:
        optimizer: Any; one without such paths, or with parameters of one kind, stays as it is.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    meshes = {parameter.device_mesh if isinstance(parameter, DTensor) else None for parameter in parameters}
    if len(meshes) < 2:
        return
    for group in optimizer.param_groups:
        for path in FAST_PATHS:
            if path in group:
                group[path] = False
