"""From a checkpoint file back to the objective that wrote it."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lmmodules.callbacks.config_snapshot import SNAPSHOT_KEY
from lmmodules.errors import InputError
from lmmodules.parallel.replacing import replaced_by
from lmmodules.parallel.sharded_checkpoint import REST, is_sharded, read_whole

if TYPE_CHECKING:
    from lmmodules.data import Tokenizer
    from lmmodules.objectives import Objective

COMPILED_PREFIX = "_orig_mod."
WEIGHTS_SUFFIX = ".safetensors"
"""Of a file of weights that explain themselves, without the states of the optimizer."""


def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    trusted: Sequence[str] = ("lmmodules",),
) -> Objective:
    """Build the objective of a checkpoint again, with its weights, ready for evaluation.

    The file is read with `weights_only=True` and the classes it names must belong to a package in `trusted`, so
    nothing that a checkpoint contains is ever executed.

    Args:
        path: A checkpoint written by `lmm-train`, or the directory of a run, whose `checkpoints/last.ckpt` is taken, or
            a file of weights written by `lmm-export`.
        device: Where the weights go.
        trusted: Packages whose classes may be built; add your own for objectives that live elsewhere.

    Returns:
        The objective in evaluation mode.

    Raises:
        InputError: When the file is missing, truncated, or not a checkpoint of this package, or when it names a class
            outside `trusted`.
    """
    checkpoint = read_checkpoint(path)
    snapshot = checkpoint[SNAPSHOT_KEY]
    backbone = build(snapshot["model"], trusted)
    objective: Objective = build(snapshot["objective"], trusted, backbone=backbone)
    state = {name.replace(COMPILED_PREFIX, ""): tensor for name, tensor in checkpoint["state_dict"].items()}
    try:
        objective.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"`{path}` does not hold the weights that its own configuration asks for: {reason}") from error
    try:
        return objective.to(device).eval()
    except (AssertionError, RuntimeError) as error:
        raise InputError(f"`device` must be one that this machine has, but is {device}; use `device=cpu`") from error


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer a checkpoint was trained with.

    Args:
        path: See `load`.

    Raises:
        InputError: See `load`; or when the checkpoint carries no tokenizer.
    """
    from lmmodules.data import Tokenizer

    text = read_snapshot(path).get("tokenizer")
    if text is None:
        raise InputError(f"`{path}` carries no tokenizer; it was trained on a data module that has none")
    return Tokenizer.from_json(text)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint of this package as plain tensors and containers.

    Args:
        path: A checkpoint, the directory of a run, or a file of weights.

    Raises:
        InputError: When the file is missing, truncated or foreign.
    """
    file = resolve_checkpoint(path)
    if is_sharded(file):
        return _checked(read_whole(file), file)
    if file.suffix == WEIGHTS_SUFFIX:
        return _checked(_read_weights(file), file)
    try:
        checkpoint: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise InputError(f"`{file}` cannot be read: {error.strerror}") from error
    except Exception as error:  # what a damaged byte makes the unpickler raise is anybody's guess
        raise InputError(
            f"`{file}` cannot be read as a checkpoint: it is truncated, damaged, or not a checkpoint at all"
        ) from error
    return _checked(checkpoint, file)


def read_snapshot(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint says of itself: `model`, `objective`, `tokenizer` and `config`. Its tensors are not read.

    Args:
        path: See `read_checkpoint`.

    Raises:
        InputError: See `read_checkpoint`.
    """
    file = resolve_checkpoint(path)
    try:
        if file.suffix == WEIGHTS_SUFFIX:
            from safetensors import safe_open

            with safe_open(file, framework="pt") as opened:
                snapshot = _snapshot_in(opened.metadata())
        else:
            place = file / REST if is_sharded(file) else file
            snapshot = torch.load(place, map_location="cpu", weights_only=True, mmap=True)[SNAPSHOT_KEY]
    except Exception:  # the whole is read to tell what is wrong
        snapshot = None
    found: dict[str, Any] = snapshot if _is_snapshot(snapshot) else read_checkpoint(path)[SNAPSHOT_KEY]
    return found


def write_weights(checkpoint: Mapping[str, Any], file: Path) -> None:
    """Write the weights of a checkpoint as one safetensors file, with all that it takes to build their network again.

    The header names the architecture and the objective, and holds the snapshot as JSON; nothing in the file is
    ever executed.

    Args:
        checkpoint: From `read_checkpoint`.
        file: Its name ends in `.safetensors`.
    """
    from safetensors.torch import save_file

    snapshot = checkpoint[SNAPSHOT_KEY]
    tensors: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in checkpoint["state_dict"].items():
        place = tensor.untyped_storage().data_ptr()
        # The format refuses memory that two names share.
        tensors[name.replace(COMPILED_PREFIX, "")] = tensor.clone() if place in places else tensor.contiguous()
        places.add(place)
    header = {
        "format": "pt",
        "architecture": str(snapshot["model"]["_target_"]),
        "objective": str(snapshot["objective"]["_target_"]),
        SNAPSHOT_KEY: json.dumps(snapshot),
    }
    save_file(tensors, file, metadata=header)


def _read_weights(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return {"state_dict": tensors, SNAPSHOT_KEY: _snapshot_in(opened.metadata())}
    except (SafetensorError, OSError) as error:
        raise InputError(f"`{file}` is truncated, damaged, or not a safetensors file ({error})") from error


def _snapshot_in(header: Mapping[str, str] | None) -> Any:
    """What the header of a file of weights says of the network, if it says anything."""
    try:
        return json.loads((header or {}).get(SNAPSHOT_KEY, "null"))
    except ValueError:
        return None


def _checked(checkpoint: dict[str, Any], file: Path) -> dict[str, Any]:
    if not _explains_itself(checkpoint):
        raise InputError(
            f"`{file}` was not written by lmmodules: it does not say what network its weights belong to; "
            "load it with the `load_from_checkpoint` of the class that wrote it"
        )
    return checkpoint


def _explains_itself(checkpoint: object) -> bool:
    if not isinstance(checkpoint, dict) or not {SNAPSHOT_KEY, "state_dict"} <= checkpoint.keys():
        return False
    return _is_snapshot(checkpoint[SNAPSHOT_KEY])


def _is_snapshot(snapshot: object) -> bool:
    return isinstance(snapshot, dict) and all(
        isinstance(snapshot.get(part), dict) and "_target_" in snapshot[part] for part in ("model", "objective")
    )


def resolve_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that a path means: itself, or the last one of a run's directory.

    Where a run was killed while a newer checkpoint was about to take the name, it is the one before.

    Args:
        path: A file, the directory of a checkpoint in parts, or that of a run.

    Raises:
        InputError: When there is none.
    """
    file = Path(path)
    if file.is_dir() and not is_sharded(file):
        file = file / "checkpoints" / "last.ckpt"
    if not file.exists():
        before = replaced_by(file)
        if before.exists():
            return before
        raise InputError(f"`checkpoint` must be a file that `lmm-train` wrote, but `{file}` does not exist")
    return file


def build(node: Any, trusted: Sequence[str] = ("lmmodules",), **objects: Any) -> Any:
    """Build the object that a plain configuration node describes.

    Does what Hydra's `instantiate` does with `_target_`, but only for classes of trusted packages, because a
    checkpoint may come from anywhere.

    Args:
        node: Numbers, strings, lists and dictionaries; a dictionary with `_target_` becomes a call.
        trusted: Packages whose names may be called.
        **objects: Arguments that are objects already.

    Raises:
        InputError: When a `_target_` lies outside the trusted packages, does not exist, is not a module of a network,
            or does not take its arguments.
    """
    if isinstance(node, Mapping):
        arguments = {name: build(value, trusted) for name, value in node.items() if name != "_target_"}
        if "_target_" not in node:
            return arguments
        target = str(node["_target_"])
        module = _locate(target, trusted)
        try:
            return module(**arguments, **objects)
        except TypeError as error:
            raise InputError(
                f"the checkpoint asks for `{target}` with arguments that this version of the package does not take: "
                f"{error}"
            ) from error
    if isinstance(node, list):
        return [build(value, trusted) for value in node]
    return node


def _locate(target: str, trusted: Sequence[str]) -> Any:
    module, _, name = target.rpartition(".")
    if module.partition(".")[0] not in trusted:
        raise InputError(
            f"the checkpoint asks for `{target}`, which lies outside {', '.join(trusted)}; "
            f"if you trust it, load with `trusted=({', '.join(map(repr, trusted))}, {module.partition('.')[0]!r})`"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the checkpoint asks for `{target}`, which this version of the package does not have"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"the checkpoint asks for `{target}`, which is not a module of a network")
    return found
