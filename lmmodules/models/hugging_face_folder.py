"""Published models as they lie on a disk or on the hub: `config.json` and safetensors, or one GGUF file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lmmodules.errors import InputError, require
from lmmodules.models.heads import LanguageModelHead
from lmmodules.models.hugging_face import build_from_weights, new_head
from lmmodules.models.hugging_face_defaults import DEFAULTS, SYNONYMS
from lmmodules.models.hugging_face_heads import Purpose, find_sequence_heads
from lmmodules.models.transformer import Transformer

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a folder, the preferred one first; `<name>.index.json` says where the parts of one lie."""


def from_hugging_face(
    name_or_folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32
) -> tuple[Transformer, LanguageModelHead]:
    """Load a published model with its language-model head.

    Safetensors and configuration are read without transformers, a GGUF file through it. Where a model has no such
    head, as a bare encoder, a new one is made and said to be new.

    Args:
        name_or_folder: A name on the hub, a folder with `config.json` and weights, or a GGUF file.
        dtype: Type of the weights, whatever theirs is.

    Raises:
        InputError: See `Transformer.from_hugging_face`.
    """
    published = read_model(find_model(name_or_folder))
    backbone, head = published.backbone, published.head
    if head is None:
        head = new_head(published.config, backbone, f"`{name_or_folder}`")
    return backbone.to(dtype), head.to(dtype)


class Published(NamedTuple):
    """A published model in our parts."""

    backbone: Transformer
    head: LanguageModelHead | None
    """Over the vocabulary, if there is one."""
    sequence_heads: dict[Purpose, dict[str, Tensor]]
    """Weights of those over one state per sequence, by what they are for."""
    config: Any


def read_model(place: Path) -> Published:
    """Backbone, heads as far as there are any, and configuration of a published model.

    Args:
        place: A folder or GGUF file; see `find_model`.

    Raises:
        InputError: See `Transformer.from_hugging_face`.
    """
    with _said_of(place):
        gguf = place.suffix == ".gguf"
        config, weights = read_gguf(place) if gguf else (read_config(place), read_weights(place))
        heads = find_sequence_heads(config.model_type, weights)
        return Published(*build_from_weights(config, weights), heads, config)


def find_model(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder or GGUF file that is meant, fetched from the hub if it is a name there.

    Args:
        name_or_folder: See `from_hugging_face`; a folder that holds nothing but one GGUF file means that.

    Raises:
        InputError: When there is nothing of that name.
    """
    place = Path(name_or_folder).expanduser()
    if place.is_file():
        if place.suffix == ".gguf":
            return place
        raise InputError(
            f"a published model must be a folder, a GGUF file or a name on the hub, but `{name_or_folder}` is another "
            "kind of file"
        )
    if place.is_dir():
        if (place / "config.json").exists():
            return place
        quantised = sorted(place.glob("*.gguf"))
        if len(quantised) == 1:
            return quantised[0]
        found = (
            f"{len(quantised)} GGUF files, of which one must be named" if quantised else "neither it nor a GGUF file"
        )
        raise InputError(f"the folder of a published model must hold `config.json`, but `{name_or_folder}` has {found}")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(name_or_folder)) or place.suffix in (".gguf", ".safetensors"):
        raise InputError(f"`{name_or_folder}` must be a folder, a GGUF file or a name on the hub, but does not exist")
    return _fetch(str(name_or_folder))


def _fetch(name: str) -> Path:
    """The files of a model of the hub, from the cache where they are there."""
    hub = require("huggingface_hub", "hub", f"`{name}`, which is no folder here and so a name on the hub,")
    beside = ("*.json", "vocab.txt")
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns=[*beside, "model*.safetensors"]))
        if not list(folder.glob("model*.safetensors")):
            folder = Path(hub.snapshot_download(name, allow_patterns=[*beside, "pytorch_model*.bin"]))
    except Exception as error:  # of HTTP, of the hub, of its validators, of the operating system
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise InputError(
            f"`{name}` is no folder here, and could not be fetched from the hub ({type(error).__name__}: {reason})"
        ) from error
    if not (folder / "config.json").exists():
        raise InputError(f"`{name}` is no folder here, and on the hub it has no `config.json`")
    return folder


def read_config(folder: Path) -> SimpleNamespace:
    """The fields of `config.json`, over the defaults of its family.

    Args:
        folder: Of the model.

    Raises:
        InputError: When the file is damaged, or the family is not one of ours.
    """
    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"`{folder / 'config.json'}` is not JSON ({error})") from error
    family = fields.get("model_type")
    if family not in DEFAULTS:
        raise InputError(
            f"`model_type` must be one of {', '.join(DEFAULTS)}, but is {family!r} in `{folder / 'config.json'}`; "
            "wrap it as it is with `model=hugging_face`"
        )
    for synonym, field in SYNONYMS.get(family, {}).items():
        if synonym in fields:
            fields.setdefault(field, fields.pop(synonym))
    return SimpleNamespace(**{**DEFAULTS[family], **fields})


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, from one file or from the parts of an index.

    Args:
        folder: Of the model.

    Raises:
        InputError: When there are no weights, a part is missing, or a file is damaged.
    """
    for name in WEIGHT_FILES:
        file, index = folder / name, folder / f"{name}.index.json"
        if file.exists():
            return _read_tensors(file)
        if index.exists():
            parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            missing = [part for part in parts if not (folder / part).exists()]
            if missing:
                raise InputError(f"`{index}` lists `{missing[0]}`, which must lie beside it, but is missing")
            return {name: tensor for part in parts for name, tensor in _read_tensors(folder / part).items()}
    raise InputError(f"`{folder}` must hold {' or '.join(f'`{name}`' for name in WEIGHT_FILES)}, but has neither")


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        tensors: Mapping[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise InputError(f"`{file}` is truncated or damaged ({error})") from error
    except Exception as error:  # what a damaged byte makes the unpickler raise is anybody's guess
        raise InputError(f"`{file}` cannot be read as weights: it is truncated, damaged, or something else") from error
    return dict(tensors)


def read_gguf(file: Path) -> tuple[Any, dict[str, Tensor]]:
    """Configuration and dequantised weights of a GGUF file.

    Args:
        file: Of the model.

    Raises:
        InputError: When a package is missing, or transformers does not take the file.
    """
    for package in ("gguf", "accelerate", "transformers"):  # the first two for the third
        transformers = require(package, "gguf", f"`{file.name}`")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, local_files_only=True
        )
    except Exception as error:  # of the reader, of transformers, of a package that it misses
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"`{file}` cannot be read as a GGUF file ({type(error).__name__}: {reason})") from error
    return model.config, model.state_dict()


@contextmanager
def _said_of(place: Path) -> Iterator[None]:
    """Say which model a refusal is about."""
    try:
        yield
    except InputError as error:
        if str(place) in str(error):
            raise
        raise InputError(f"`{place}` cannot be taken: {error}") from error
