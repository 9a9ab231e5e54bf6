"""What a processor does with denormals, the float32 numbers between 0 and 1.2e-38.

Far keys get attention weights there, under ALiBi more than elsewhere, and arithmetic with such numbers takes many times
as long: a backward pass of attention over 1024 tokens twice as long as without them. To a network they are zero.
"""

from __future__ import annotations

import functools
import os
import warnings

import torch

SWITCH = "LMM_FLUSH_DENORMALS"
"""Environment variable; `0` leaves the processor as it is."""

_PARALLEL_GRAIN = 32768  # torch gives a thread at least so many elements


def flush_denormals() -> bool:
    """Have this process compute with zeros where numbers become denormal.

    The mode belongs to a thread and is inherited by the threads it starts, so this has to be called before torch
    starts its own, which is at the first operation on a large tensor. The commands call it first of all. It concerns
    everything the process computes in float32 and float64, on the CPU.

    Returns:
        Whether the mode is on now: not with `LMM_FLUSH_DENORMALS=0`, and not on processors without it.
    """
    if os.environ.get(SWITCH) == "0":
        return False
    # numpy before 2.3 wonders aloud about a smallest number of zero.
    warnings.filterwarnings("ignore", message="The value of the smallest subnormal")
    _try_threads.cache_clear()
    return torch.set_flush_denormal(True)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def denormals_are_flushed() -> bool:
    """Whether every thread that computes for this one makes zeros of denormals. Tried once and remembered."""
    return _try_threads()


@functools.cache
def _try_threads() -> bool:
    size = 2 * _PARALLEL_GRAIN * torch.get_num_threads()
    with torch.inference_mode():
        quarters = torch.full((size,), 2e-38, device="cpu") * 0.25
        # Compared as integers: a thread that flushes would take another one's denormals for zeros.
        return not quarters.view(torch.int32).any().item()
