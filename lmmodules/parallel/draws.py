"""Random numbers of a training batch: they follow from the seed of the run, the batch and the data rank alone."""

from __future__ import annotations

import hashlib

import torch


def seed_draws(seed: int, batch: int, data_rank: int, device: torch.device) -> None:
    """Seed torch's generators for one training batch, in microseconds and without waiting for the device.

    What dropout draws is then the same in a resumed run as in an unbroken one. Ranks of other data draw other numbers,
    and those that share a batch, as in tensor parallelism, the same.

    Args:
        seed: Of the run.
        batch: Batches that the run has taken before this one, over all interruptions.
        data_rank: Number of this process among those that hold different data.
        device: Where the network is. The processor's generator is seeded in any case.
    """
    # A hash, because the processor's generator takes 32 bits only, in which sums and products soon meet.
    digest = hashlib.blake2b(repr((seed, batch, data_rank)).encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    # Not `torch.manual_seed`, which seeds every kind of device and notes the call stack for those that are not there.
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)
