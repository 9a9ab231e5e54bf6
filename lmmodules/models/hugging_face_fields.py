"""What the configuration of any encoder or decoder of transformers tells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lmmodules.errors import InputError, require


def read_fields(name: str | None) -> dict[str, Any]:
    """The configuration of a model as plain values.

    Args:
        name: A name on the hub, or a folder.

    Raises:
        InputError: When there is none, or transformers does not know its kind.
    """
    if not name:
        raise InputError("`model.name` is missing: give a name on the hub or a folder, as `model.name=distilgpt2`")
    transformers = require("transformers", "hub", f"`model.name={name}`")
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"`model.name` must be a folder or a name on the hub with a `config.json` that transformers knows, but "
            f"`{name}` is not ({reason})"
        ) from error
    return plain_fields(config)


def plain_fields(config: Any) -> dict[str, Any]:
    """Every field of a configuration, under the name that families share as well."""
    fields: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    for shared, own in getattr(config, "attribute_map", {}).items():
        fields.setdefault(shared, fields.get(own))
    return fields


def is_causal(fields: Mapping[str, Any], said: bool | None) -> bool:
    """Whether a token of the model sees only itself and what came before.

    Args:
        fields: Its configuration.
        said: What the user says; `None` for nothing.

    Raises:
        InputError: When it cannot be told, or what is said cannot be so, or it is neither encoder nor decoder.
    """
    family = fields["model_type"]
    if fields.get("is_encoder_decoder") or "vocab_size" not in fields or "num_hidden_layers" not in fields:
        raise InputError(f"`model.name` must be one encoder or decoder of tokens, but a {family} model is none")
    auto = require("transformers.models.auto.modeling_auto", "hub", f"a {family} model")
    decoder = family in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    encoder = family in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if decoder and encoder:
        return bool(fields.get("is_decoder")) if said is None else said
    if decoder == encoder:
        if said is None:
            raise InputError(f"`model.causal` must be given, because the kind of a {family} model does not tell")
        return said
    if said is not None and said != decoder:
        kind = "causal" if decoder else "bidirectional"
        raise InputError(f"`model.causal` must be {decoder} or left out, because a {family} model is {kind}")
    return decoder


def longest(fields: Mapping[str, Any]) -> int | None:
    """Tokens of the longest sequence that a model has positions for, as far as its configuration tells.

    Args:
        fields: Its configuration.
    """
    limit = fields.get("max_position_embeddings")
    if not isinstance(limit, int) or limit < 1:
        return None
    return limit - rows_of_padding(fields)


def rows_of_padding(fields: Mapping[str, Any]) -> int:
    """Rows of the position table before the first token's: RoBERTa and its descendants begin after padding's."""
    family = str(fields["model_type"])
    return fields["pad_token_id"] + 1 if "roberta" in family or family in _SKIP_PADDING else 0


_SKIP_PADDING = ("camembert", "esm", "longformer", "mpnet", "ibert", "luke", "xmod", "data2vec-text", "markuplm")


def can_be_either(fields: Mapping[str, Any]) -> bool:
    """Whether a family is an encoder or a decoder as its configuration says."""
    auto = require("transformers.models.auto.modeling_auto", "hub", "a wrapped model")
    family = fields["model_type"]
    return family in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and family in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
