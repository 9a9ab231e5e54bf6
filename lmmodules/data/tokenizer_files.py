"""A tokenizer of ours as files that transformers opens, with the layout that a network was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tokenizers

from lmmodules.data.sequence_layout import SequenceLayout
from lmmodules.data.tokenizer import ROLES, Tokenizer

DELIMITERS: Mapping[str, str] = MappingProxyType({"cls_token": "bos", "sep_token": "eos"})
"""What transformers calls the tokens around the texts of an encoder besides, and the role that they have here."""


def write_tokenizer(
    folder: Path,
    tokenizer: Tokenizer,
    max_length: int | None,
    *,
    layout: SequenceLayout | None = None,
    token_types: bool = False,
) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.

    Args:
        folder: An existing folder.
        tokenizer: Ours.
        max_length: Longest sequence, in tokens, that the model takes.
        layout: Special tokens that are put around a text and between two; `None` adds nothing to what the tokenizer
            itself puts there.
        token_types: Whether the model tells segments apart, and is to be given `token_type_ids`.
    """
    by_role = json.loads(tokenizer.to_json())["special_tokens"]
    names = {f"{role}_token": role for role in ROLES} | dict({} if layout is None else DELIMITERS)
    special_tokens = {theirs: by_role[role] for theirs, role in names.items() if role in by_role}
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"],
        **({} if max_length is None else {"model_max_length": max_length}),
        **special_tokens,
    }
    backend = tokenizer.backend if layout is None else laid_out(tokenizer, layout)
    backend.save(str(folder / "tokenizer.json"))
    for name, content in (("tokenizer_config.json", settings), ("special_tokens_map.json", special_tokens)):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def laid_out(tokenizer: Tokenizer, layout: SequenceLayout) -> tokenizers.Tokenizer:
    """The backend of a tokenizer that puts special tokens as a layout has them: itself, if it does so already.

    Args:
        tokenizer: With tokens that begin and end a sequence.
        layout: See `write_tokenizer`.
    """
    backend = tokenizer.backend
    if _does(tokenizer, layout):
        return backend
    content = json.loads(backend.to_str())
    former, template = content["post_processor"], _template(tokenizer, layout)
    # What adds no tokens, as the one of byte-level BPE, has something else to do.
    adds_nothing = former is not None and not backend.num_special_tokens_to_add(False)
    content["post_processor"] = {"type": "Sequence", "processors": [former, template]} if adds_nothing else template
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def _does(tokenizer: Tokenizer, layout: SequenceLayout) -> bool:
    """Whether a pair, and a text alone, come out as a layout has them."""
    backend = tokenizer.backend
    one, two = (tokenizer.encode(text) for text in ("a", "b"))
    alone, pair = backend.encode("a"), backend.encode("a", "b")
    begin, end = [tokenizer.bos_id], [tokenizer.eos_id]
    first = begin + one + end
    rest = end * (layout.num_separators - 1) + two + end
    types = [0] * (len(first) + layout.num_separators - 1) + [int(layout.token_types)] * (len(two) + 1)
    return bool((alone.ids, pair.ids, pair.type_ids) == (first, first + rest, types))


def _template(tokenizer: Tokenizer, layout: SequenceLayout) -> dict[str, Any]:
    """`<s> A </s>` and `<s> A </s> B </s>` as a post-processor of `tokenizers`."""
    ids = {str(tokenizer.backend.id_to_token(token)): token for token in (tokenizer.bos_id, tokenizer.eos_id)}
    begin, end = next(iter(ids)), list(ids)[-1]  # one token may be both

    def special(token: str, segment: int = 0) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": segment}}

    def text(name: str, segment: int = 0) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    second = int(layout.token_types)
    first = [special(begin), text("A")]
    return {
        "type": "TemplateProcessing",
        "single": [*first, special(end)],
        "pair": [*first, *[special(end)] * layout.num_separators, text("B", second), special(end, second)],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]} for token, index in ids.items()},
    }
