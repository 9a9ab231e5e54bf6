"""Weights from and to transformers: BERT, RoBERTa, ELECTRA, GPT-2, BLOOM, Llama (SmolLM2 among them), GPT-NeoX, ESM.

One table per family, in `hugging_face_names`, says which tensors of transformers stand for one of ours, and by which
arrangement. It is read in both directions, so that what was loaded can be given back.
"""

from __future__ import annotations

import logging
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

OTHER_HEADS = r"(classifier|score|qa_outputs)\..*"
"""What fine-tuned models of every family have beside their body."""

log = logging.getLogger(__name__)


def from_transformers(model: Any) -> tuple[Transformer, LanguageModelHead]:
    """Make our backbone and head from a transformers model, with copies of its weights.

    Args:
        model: An instance such as `BertForMaskedLM`, `RobertaForMaskedLM`, `ElectraForMaskedLM`, `GPT2LMHeadModel`,
            `BloomForCausalLM`, `LlamaForCausalLM`, or one without a head, in whose place a new one is made.

    Raises:
        InputError: When the family or something its configuration asks for is not supported, naming the field, or
            when weights are missing or left over.
    """
    backbone, head = build_from_weights(model.config, model.state_dict())
    if head is None:
        head = new_head(model.config, backbone, type(model).__name__)
    return backbone.train(model.training), head.train(model.training)


def build_from_weights(config: Any, state_dict: Mapping[str, Tensor]) -> tuple[Transformer, LanguageModelHead | None]:
    """Make backbone and head of a configuration, with copies of its weights.

    Args:
        config: A configuration of transformers, or an object with its fields.
        state_dict: Weights by the names of transformers.

    Returns:
        The backbone, and the head if its weights are there.

    Raises:
        InputError: See `from_transformers`.
    """
    with torch.device("meta"):
        backbone = Transformer(**convert_config(config))
        head = LanguageModelHead(**convert_head_config(config))
    backbone_state, head_state = convert_state_dict(config.model_type, state_dict, backbone, head)
    backbone.load_state_dict(backbone_state, assign=True)
    if head_state is None:
        return backbone, None
    head.load_state_dict(head_state, assign=True)
    return backbone, head


def new_head(config: Any, backbone: Transformer, origin: str) -> LanguageModelHead:
    """The head of a configuration with random weights, and a word about it.

    Args:
        config: See `build_from_weights`.
        backbone: Whose type the weights are to have.
        origin: What has no head of its own.
    """
    log.warning(f"no language-model head in {origin}: a new one is made")
    return LanguageModelHead(**convert_head_config(config)).to(backbone.token_embedding.weight)


def convert_state_dict(
    family: str, state_dict: Mapping[str, Tensor], backbone: Transformer, head: LanguageModelHead
) -> tuple[StateDict, StateDict | None]:
    """Rename and rearrange the weights of a transformers model.

    Args:
        family: `model_type` of its configuration.
        state_dict: Its weights, with or without the prefix of its base model.
        backbone: Of the right sizes; it may be on the meta device.
        head: Likewise.

    Returns:
        New tensors for `backbone.load_state_dict` and `head.load_state_dict`; `None` for the head where there are none.

    Raises:
        InputError: When a weight is missing, or left over and not among those known to be unused.
    """
    names = _names(family)
    theirs = {_present_name(name, names): tensor for name, tensor in state_dict.items()}
    if not any(name.startswith(names.prefix) for name in theirs):
        theirs = {names.prefix + name: tensor for name, tensor in theirs.items()}
    copies = names.copies if head.tied else {}
    # Of tensors that are one, a file keeps either.
    theirs.update({source: theirs[copy] for copy, source in copies.items() if copy in theirs and source not in theirs})
    used: set[str] = set()

    def gather(counterpart: Counterpart) -> Tensor:
        missing = [source for source in counterpart.names if source not in theirs]
        if missing:
            raise InputError(f"`{missing[0]}` must be among the weights of a {family} model, but is missing")
        used.update(counterpart.names)
        return counterpart.arrangement.join([theirs[source] for source in counterpart.names], backbone).clone(
            memory_format=torch.contiguous_format
        )

    of_backbone, of_head = _counterparts(family, backbone, head)
    sources = {source for counterpart in of_head.values() for source in counterpart.names}
    has_head = not sources or not sources.isdisjoint(theirs)
    backbone_state = {name: gather(counterpart) for name, counterpart in of_backbone.items()}
    head_state = {name: gather(counterpart) for name, counterpart in of_head.items()} if has_head else None
    left_over = [
        name
        for name in theirs
        if name not in used
        and name not in copies
        and not any(re.fullmatch(unused, name) for unused in (*names.ignored, OTHER_HEADS))
    ]
    if left_over:
        raise InputError(f"`{left_over[0]}` has no place in a {family} model of ours ({len(left_over)} such weights)")
    return backbone_state, head_state


def to_transformers_state_dict(family: str, backbone: Transformer, head: LanguageModelHead | None) -> StateDict:
    """The weights under the names of transformers, for `load_state_dict` of the family's model with a head.

    Args:
        family: `model_type` of its configuration.
        backbone: A backbone of that kind.
        head: Its head; `None` for the weights of the body alone.

    Raises:
        InputError: When a weight has no counterpart in the family.
    """
    theirs: StateDict = {}
    parts = zip((backbone, head), _counterparts(family, backbone, head), strict=True)
    for module, counterparts in parts:
        state = {} if module is None else module.state_dict()
        for name, counterpart in counterparts.items():
            tensors = counterpart.arrangement.split(state[name], backbone)
            theirs.update(zip(counterpart.names, (tensor.contiguous() for tensor in tensors), strict=True))
    if head is not None and head.tied:
        theirs.update({copy: theirs[source] for copy, source in _names(family).copies.items()})
    return theirs


def _names(family: str) -> Family:
    if family not in FAMILIES:
        raise InputError(f"`model_type` must be one of {', '.join(FAMILIES)}, but is {family!r}")
    return FAMILIES[family]


def _present_name(name: str, names: Family) -> str:
    """What a tensor is called today: files of the first BERTs speak of a norm's gamma and beta."""
    for older, present in names.renamed.items():
        if name.startswith(older):
            name = present + name.removeprefix(older)
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda found: f"LayerNorm.{_OF_NORMS[found[1]]}", name)


_OF_NORMS = {"gamma": "weight", "beta": "bias"}


def _counterparts(
    family: str, backbone: Transformer, head: LanguageModelHead | None
) -> tuple[dict[str, Counterpart], dict[str, Counterpart]]:
    """For every tensor of backbone and head, what stands for it in transformers."""
    names = _names(family)
    body = dict(names.body)
    positions, token_types = body.get("position.table.weight"), body.get("token_type_embedding.weight")
    if positions and token_types and not backbone.num_token_types:
        # Every token of a one-segment model receives the same type, which is as well added to every position.
        body["position.table.weight"] = Counterpart((*positions.names, *token_types.names), FoldedTokenType())
    return (
        {name: _counterpart(name, body, family) for name in backbone.state_dict()},
        {name: _counterpart(name, names.head, family) for name in (() if head is None else head.state_dict())},
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
