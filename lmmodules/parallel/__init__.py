"""Ranks, reductions and meshes: what the rest of the package needs to know of being many processes."""

from lmmodules.parallel.mesh import data_parallel_group, shard_over_mesh
from lmmodules.parallel.reduce import (
    is_rank_zero,
    print_rank_zero,
    rank,
    reduce_losses,
    reduce_sums,
    world_size,
)
from lmmodules.parallel.totals import Term, Totals

__all__ = [
    "Term",
    "Totals",
    "data_parallel_group",
    "is_rank_zero",
    "print_rank_zero",
    "rank",
    "reduce_losses",
    "reduce_sums",
    "shard_over_mesh",
    "world_size",
]
