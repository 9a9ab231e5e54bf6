"""Lightning strategies as this package uses them."""

from __future__ import annotations

from lightning.pytorch.strategies import ModelParallelStrategy


class FSDP2Strategy(ModelParallelStrategy):
    """Parameters, gradients and optimizer states sharded over all processes.

    Lightning's mesh strategy with every process on the data axis; `shard_over_mesh` shards over it. Lightning's own
    `FSDPStrategy` is the older FSDP, which has no CPU backend and no clipping by norm.

    Args:
        save_distributed_checkpoint: Whether each process writes its own part into a directory, instead of process
            zero writing one file.
    """

    def __init__(self, save_distributed_checkpoint: bool = False) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint)

    def setup_environment(self) -> None:
        """Put every process on the data axis; only now it is known how many there are."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
