"""A network of ours as a folder that transformers opens: the family that expresses it, its fields and weights."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from lmmodules.errors import InputError
from lmmodules.models.block import Block
from lmmodules.models.description import describe
from lmmodules.models.heads import LanguageModelHead
from lmmodules.models.hugging_face import to_transformers_state_dict
from lmmodules.models.hugging_face_forms import FORMS
from lmmodules.models.hugging_face_heads import SequenceTask
from lmmodules.models.hugging_face_names import FAMILIES
from lmmodules.models.positions import Learned, Rotary
from lmmodules.models.transformer import Transformer

log = logging.getLogger(__name__)

UNLIMITED = 2048
"""Longest sequence to promise, in tokens, where nothing limits it: a configuration must name one."""


def save_for_transformers(
    folder: Path,
    backbone: Transformer,
    head: LanguageModelHead | None = None,
    *,
    task: SequenceTask | None = None,
    token_ids: Mapping[str, int] | None = None,
    max_length: int | None = None,
) -> str:
    """Write `config.json` and `model.safetensors`.

    Args:
        folder: An existing folder.
        backbone: The network.
        head: Its head over the vocabulary; `None` for none.
        task: Its head over one state per sequence. Where the family has none of its form, that is said and the rest is
            written.
        token_ids: Ids of the special tokens by role (`pad`, `bos`, `eos`, `mask`), as far as there are.
        max_length: Longest sequence to promise, in tokens, where the network itself has no limit.

    Returns:
        The name of the class that opens it.

    Raises:
        InputError: When no family of transformers expresses the network, naming what stands against it.
    """
    ids = dict(token_ids or {})
    traits = {
        **describe(backbone),
        "max_length": backbone.max_length or max_length or UNLIMITED,
        "dropout": backbone.dropout.p,
        "attention_dropout": cast(Block, backbone.blocks[0]).attention.dropout,
    }
    family = find_family(backbone, head, ids)
    form = FORMS[family]
    name = form.bare if head is None else form.with_head
    if task is not None:
        sequence_form = task.form(family)
        if sequence_form is None:
            log.warning(
                f"the head for {task.purpose.replace('_', ' ')} is left out, since no {family} model of transformers "
                f"has one of its form: `{name}` opens the rest"
            )
            task = None
        else:
            name = sequence_form.opener
    config = {
        "architectures": [name],
        "model_type": family,
        "torch_dtype": str(backbone.token_embedding.weight.dtype).removeprefix("torch."),
        "vocab_size": traits["vocab_size"],
        "initializer_range": backbone.initializer_std,
        "tie_word_embeddings": head is None or head.tied,
        **{f"{role}_token_id": ids.get(role) for role in ("bos", "eos", "pad")},
        **form.fields(traits, ids),
        **({} if task is None else task.fields()),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(_weights(family, backbone, head, task, ids), folder / "model.safetensors", metadata={"format": "pt"})
    # The library keeps what it writes from everybody else.
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)
    return name


def find_family(backbone: Transformer, head: LanguageModelHead | None, token_ids: Mapping[str, int]) -> str:
    """The first family of transformers in which a network gives the same numbers.

    Args:
        backbone: The network.
        head: Its head, or `None`.
        token_ids: Ids of the special tokens by role.

    Raises:
        InputError: When there is none, naming what keeps it from the nearest.
    """
    traits = _relative(describe(backbone))
    traits["pad token"] = "there" if "pad" in token_ids else "missing"
    of_head = {} if head is None else _describe_head(head, backbone)
    unmet: dict[str, list[str]] = {}
    for family, form in FORMS.items():
        unmet[family] = _compare(form.needs, traits) + (_compare(form.head, of_head, "head.") if head else [])
        if not unmet[family]:
            return family
    nearest = min(unmet, key=lambda family: len(unmet[family]))
    raise InputError(
        f"no family of transformers expresses this network: the nearest, {nearest}, needs {', '.join(unmet[nearest])}"
    )


def _compare(needs: Mapping[str, tuple[Any, ...]], given: Mapping[str, Any], prefix: str = "") -> list[str]:
    return [
        f"`{prefix}{name}` to be {' or '.join(map(str, values))} (here {given.get(name)})"
        for name, values in needs.items()
        if given.get(name) not in values
    ]


def _relative(traits: dict[str, Any]) -> dict[str, Any]:
    """The description with sizes in words where they are what they usually are in terms of others."""
    usual = {
        "num_kv_heads": ("num_heads", traits["num_heads"]),
        "head_dim": ("hidden_size / num_heads", traits["hidden_size"] / traits["num_heads"]),
        "embedding_size": ("hidden_size", traits["hidden_size"]),
        "intermediate_size": ("4 * hidden_size", 4 * traits["hidden_size"]),
    }
    return {**traits, **{name: words for name, (words, size) in usual.items() if traits[name] == size}}


def _describe_head(head: LanguageModelHead, backbone: Transformer) -> dict[str, Any]:
    eps = backbone.norm_eps if head.norm is None else head.norm.eps
    return {
        "transform": head.dense is not None,
        "bias": head.bias is not None,
        "tied": head.tied,
        "activation": head.activation,
        "same activation": head.activation == cast(Block, backbone.blocks[0]).mlp.activation,
        "norm_eps": "that of the network" if eps == backbone.norm_eps else f"{eps:g} and not {backbone.norm_eps:g}",
    }


def _esm_extras(backbone: Transformer) -> dict[str, Tensor]:
    """What every ESM has, whatever it is for: a head for contacts of proteins, and the angles of rotary positions."""
    extras = {
        "esm.contact_head.regression.weight": torch.zeros(1, backbone.num_layers * backbone.num_heads),
        "esm.contact_head.regression.bias": torch.zeros(1),
    }
    if isinstance(backbone.position, Rotary):
        exponents = torch.arange(0, backbone.head_dim, 2) / backbone.head_dim
        extras["esm.rotary_embeddings.inv_freq"] = 1.0 / backbone.position.theta**exponents
    return extras


def _weights(
    family: str,
    backbone: Transformer,
    head: LanguageModelHead | None,
    task: SequenceTask | None,
    token_ids: Mapping[str, int],
) -> dict[str, Tensor]:
    """What goes into the file: by the names that files have, tied weights once."""
    names = FAMILIES[family]
    theirs = to_transformers_state_dict(family, backbone, head)
    if head is not None and head.tied:
        theirs = {name: tensor for name, tensor in theirs.items() if name not in names.copies}
    if isinstance(backbone.position, Learned):
        table = names.body["position.table.weight"].names[0]
        used = theirs[table][backbone.position.offset :]
        unused = token_ids["pad"] + 1 if FORMS[family].skips_padding else 0
        theirs[table] = torch.cat([used.new_zeros(unused, used.shape[1]), used])
    if family == "esm":
        theirs.update(_esm_extras(backbone))
    for older, present in names.renamed.items():
        theirs = {re.sub(f"^{re.escape(present)}", older, name): tensor for name, tensor in theirs.items()}
    if task is not None:
        theirs.update(task.weights(family))
    elif head is None:
        theirs = {name.removeprefix(names.prefix): tensor for name, tensor in theirs.items()}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in theirs.items()}
