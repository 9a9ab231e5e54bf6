"""Weights from and to transformers: BERT, RoBERTa, GPT-2, BLOOM and Llama (SmolLM2 among them).

One table per family, in `hugging_face_names`, says which tensors of transformers stand for one of ours, and by which
arrangement. It is read in both directions, so that what was loaded can be given back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lmmodules.errors import InputError
from lmmodules.models.arrangements import FoldedTokenType
from lmmodules.models.heads import LanguageModelHead
from lmmodules.models.hugging_face_config import convert_config, convert_head_config
from lmmodules.models.hugging_face_names import FAMILIES, Counterpart, Family
from lmmodules.models.transformer import Transformer

StateDict = dict[str, Tensor]

__all__ = [
    "convert_config",
    "convert_head_config",
    "convert_state_dict",
    "from_transformers",
    "to_transformers_state_dict",
]


def from_transformers(model: Any) -> tuple[Transformer, LanguageModelHead]:
    """Make our backbone and head from a transformers model, with copies of its weights.

    Args:
        model: An instance such as `BertForMaskedLM`, `RobertaForMaskedLM`, `GPT2LMHeadModel`, `BloomForCausalLM` or
            `LlamaForCausalLM`.

    Raises:
        InputError: When the family or something its configuration asks for is not supported, naming the field, or
            when weights are missing or left over.
    """
    config = model.config
    with torch.device("meta"):
        backbone = Transformer(**convert_config(config))
        head = LanguageModelHead(**convert_head_config(config))
    backbone_state, head_state = convert_state_dict(config.model_type, model.state_dict(), backbone, head)
    backbone.load_state_dict(backbone_state, assign=True)
    head.load_state_dict(head_state, assign=True)
    return backbone.train(model.training), head.train(model.training)


def convert_state_dict(
    family: str, state_dict: Mapping[str, Tensor], backbone: Transformer, head: LanguageModelHead
) -> tuple[StateDict, StateDict]:
    """Rename and rearrange the weights of a transformers model.

    Args:
        family: `model_type` of its configuration.
        state_dict: Its weights, with or without the prefix of its base model.
        backbone: Of the right sizes; it may be on the meta device.
        head: Likewise.

    Returns:
        New tensors for `backbone.load_state_dict` and `head.load_state_dict`.

    Raises:
        InputError: When a weight is missing, or left over and not among those known to be unused.
    """
    names = _names(family)
    theirs = dict(state_dict)
    if not any(name.startswith(names.prefix) for name in theirs):
        theirs = {names.prefix + name: tensor for name, tensor in theirs.items()}
    used: set[str] = set()

    def gather(name: str, counterpart: Counterpart) -> Tensor:
        missing = [source for source in counterpart.names if source not in theirs]
        if missing:
            raise InputError(
                f"`{missing[0]}` must be among the weights of a {family} model with a head, but is missing"
            )
        used.update(counterpart.names)
        return counterpart.arrangement.join([theirs[source] for source in counterpart.names], backbone).clone(
            memory_format=torch.contiguous_format
        )

    backbone_state, head_state = (
        {name: gather(name, counterpart) for name, counterpart in part.items()}
        for part in _counterparts(family, backbone, head)
    )
    copies = names.copies if head.tied else {}
    left_over = [
        name
        for name in theirs
        if name not in used and name not in copies and not any(re.fullmatch(unused, name) for unused in names.ignored)
    ]
    if left_over:
        raise InputError(f"`{left_over[0]}` has no place in a {family} model of ours ({len(left_over)} such weights)")
    return backbone_state, head_state


def to_transformers_state_dict(family: str, backbone: Transformer, head: LanguageModelHead) -> StateDict:
    """The weights under the names of transformers, for `load_state_dict` of the family's model with a head.

    Args:
        family: `model_type` of its configuration.
        backbone: A backbone of that kind.
        head: Its head.

    Raises:
        InputError: When a weight has no counterpart in the family.
    """
    theirs: StateDict = {}
    parts = zip((backbone, head), _counterparts(family, backbone, head), strict=True)
    for module, counterparts in parts:
        state = module.state_dict()
        for name, counterpart in counterparts.items():
            tensors = counterpart.arrangement.split(state[name], backbone)
            theirs.update(zip(counterpart.names, (tensor.contiguous() for tensor in tensors), strict=True))
    if head.tied:
        theirs.update({copy: theirs[source] for copy, source in _names(family).copies.items()})
    return theirs


def _names(family: str) -> Family:
    if family not in FAMILIES:
        raise InputError(f"`model_type` must be one of {', '.join(FAMILIES)}, but is {family!r}")
    return FAMILIES[family]


def _counterparts(
    family: str, backbone: Transformer, head: LanguageModelHead
) -> tuple[dict[str, Counterpart], dict[str, Counterpart]]:
    """For every tensor of backbone and head, what stands for it in transformers."""
    names = _names(family)
    body = dict(names.body)
    if family == "roberta" and not backbone.num_token_types:
        # Every token of a one-segment model receives the same type, which is as well added to every position.
        sources = (*body["position.table.weight"].names, *body["token_type_embedding.weight"].names)
        body["position.table.weight"] = Counterpart(sources, FoldedTokenType())
    return (
        {name: _counterpart(name, body, family) for name in backbone.state_dict()},
        {name: _counterpart(name, names.head, family) for name in head.state_dict()},
    )


def _counterpart(name: str, table: Mapping[str, Counterpart], family: str) -> Counterpart:
    block = re.search(r"(?<=blocks\.)\d+", name)
    pattern = name if block is None else name.replace(f"blocks.{block[0]}.", "blocks.#.", 1)
    if pattern not in table:
        raise InputError(f"`{name}` has no counterpart in a {family} model of transformers")
    counterpart = table[pattern]
    if block is None:
        return counterpart
    return Counterpart(tuple(source.replace("#", block[0]) for source in counterpart.names), counterpart.arrangement)
