"""Checkpoints in parts: a directory to which every process wrote what it holds, and the whole that they make up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from lmmodules.errors import InputError

INDEX, PARTS = ".metadata", "*.distcp"
REST = "meta.pt"
"""What Lightning keeps beside weights and optimizer states: loops, callbacks, our own snapshot."""


def is_sharded(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a checkpoint in parts, complete or not.

    Args:
        path: A file or directory.
    """
    return (Path(path) / INDEX).is_file() or any(Path(path).glob(PARTS))


def check_complete(path: str | os.PathLike[str]) -> None:
    """Find a missing or truncated part by the index, before anything is read.

    Args:
        path: A checkpoint in parts.

    Raises:
        InputError: When the index is missing or damaged, or a part is missing or too short.
    """
    folder = Path(path)
    remedy = "copy the whole directory, or use an earlier checkpoint"
    if not (folder / INDEX).is_file():
        raise InputError(
            f"`{folder}` is a checkpoint in parts and must have its index, but `{INDEX}` is missing; {remedy}"
        )
    try:
        index = FileSystemReader(folder).read_metadata()
    except Exception as error:  # what a damaged byte makes the unpickler raise is anybody's guess
        raise InputError(f"`{folder}` cannot be read as a checkpoint: its index `{INDEX}` is damaged") from error
    sizes = {REST: 1}
    for entry in (index.storage_data or {}).values():
        sizes[entry.relative_path] = max(sizes.get(entry.relative_path, 0), entry.offset + entry.length)
    missing = sorted(part for part in sizes if not (folder / part).is_file())
    if missing:
        raise InputError(
            f"`{folder}` is a checkpoint of {len(sizes) - 1} parts and must have all of them, but `{missing[0]}` is "
            f"missing; {remedy}"
        )
    for part, size in sorted(sizes.items()):
        found = (folder / part).stat().st_size
        if found < size:
            raise InputError(
                f"`{folder / part}` must have at least {size} bytes, by the index of the checkpoint, but has {found}; "
                f"{remedy}"
            )


@contextmanager
def damage_told(path: str | os.PathLike[str]) -> Iterator[None]:
    """Tell in one sentence that a part cannot be read.

    Args:
        path: A checkpoint in parts, which is read meanwhile.

    Raises:
        InputError: In place of what torch raises, which is no `Exception` where several processes may read.
    """
    try:
        yield
    except CheckpointException as error:
        raise InputError(
            f"`{path}` cannot be read as a checkpoint of this network: a part of it is damaged, or belongs to another"
        ) from error


def read_whole(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Put the parts together to what one process would have saved; no process group is needed.

    Optimizer states are saved by the names of parameters, and become those of their numbers again.

    Args:
        path: A checkpoint in parts.

    Returns:
        A checkpoint as `torch.load` gives it.

    Raises:
        InputError: When a part is missing or damaged.
    """
    check_complete(path)
    folder = Path(path)
    states: dict[str, Any] = {}
    planner = _EmptyStateDictLoadPlanner()  # type: ignore[no-untyped-call]
    try:
        checkpoint: dict[str, Any] = torch.load(folder / REST, map_location="cpu", weights_only=True)
        _load_state_dict(states, storage_reader=FileSystemReader(folder), planner=planner, no_dist=True)
    except (Exception, CheckpointException) as error:
        raise InputError(f"`{folder}` cannot be read as a checkpoint: a part of it is truncated or damaged") from error
    checkpoint["state_dict"] = states.pop("state_dict")
    optimizers = sorted((name for name in states if name.startswith("optimizer_")), key=lambda name: int(name[10:]))
    checkpoint["optimizer_states"] = [_by_number(states[name]) for name in optimizers]
    return checkpoint


def by_name(optimizer: dict[str, Any], names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The state of an optimizer with the names of parameters in place of their numbers.

    Args:
        optimizer: From a file that one process wrote.
        names: Of the parameters in each of its groups, in their order there.

    Raises:
        InputError: When the groups are others.
    """
    numbers = [group["params"] for group in optimizer["param_groups"]]
    if [len(group) for group in numbers] != [len(group) for group in names]:
        raise InputError(
            f"the parameter groups of a resumed run must be those of its checkpoint, of {[*map(len, numbers)]} "
            f"tensors, but have {[*map(len, names)]}; use the `parameter_groups` and `objective` it was started with"
        )
    name_of = {
        number: name
        for group, of_group in zip(numbers, names, strict=True)
        for number, name in zip(group, of_group, strict=True)
    }
    return {
        "state": {name_of[number]: state for number, state in optimizer["state"].items()},
        "param_groups": [
            {**group, "params": list(of_group)}
            for group, of_group in zip(optimizer["param_groups"], names, strict=True)
        ],
    }


def _by_number(optimizer: dict[str, Any]) -> dict[str, Any]:
    names = [name for group in optimizer["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    return {
        "state": {numbers[name]: state for name, state in optimizer["state"].items()},
        "param_groups": [
            {**group, "params": [numbers[name] for name in group["params"]]} for group in optimizer["param_groups"]
        ],
    }
