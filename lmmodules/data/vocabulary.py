"""What the spelling of a vocabulary tells: which tokens begin a word, and which hold a line break."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from lmmodules.errors import InputError

# Byte-level tokenizers write the 68 bytes without a printable form as the code points from U+0100 on.
_BYTE_LEVEL_SPACES = tuple(chr(0x100 + byte) for byte in (*range(9, 14), 0x20))
_BYTE_LEVEL_NEWLINE = chr(0x100 + 0x0A)
_METASPACE = "\u2581"


def word_starts(backend: tokenizers.Tokenizer, vocab_size: int) -> npt.NDArray[np.bool_]:
    """Mark the tokens that begin a word.

    Args:
        backend: The tokenizer.
        vocab_size: Number of ids, V.

    Returns:
        (V,) True where a token begins with white space, or does not begin with WordPiece's `##`.

    Raises:
        InputError: When the kind of the tokenizer does not tell (it is neither byte-level, WordPiece nor
            SentencePiece).
    """
    kind = _kind(backend)
    starts = np.ones(vocab_size, dtype=np.bool_)
    for token, token_id in backend.get_vocab(with_added_tokens=True).items():
        if kind == "ByteLevel":
            starts[token_id] = token.startswith(_BYTE_LEVEL_SPACES)
        elif kind == "Metaspace":
            starts[token_id] = token.startswith(_METASPACE)
        else:
            starts[token_id] = not token.startswith("##")
    return starts


def line_ends(backend: tokenizers.Tokenizer, vocab_size: int) -> npt.NDArray[np.bool_]:
    """Mark the tokens that hold a line break.

    Args:
        backend: The tokenizer.
        vocab_size: Number of ids, V.

    Raises:
        InputError: When no token does, because the tokenizer drops line breaks.
    """
    newline = _BYTE_LEVEL_NEWLINE if _kind(backend) == "ByteLevel" else "\n"
    ends = np.zeros(vocab_size, dtype=np.bool_)
    for token, token_id in backend.get_vocab(with_added_tokens=True).items():
        ends[token_id] = newline in token or token == "<0x0A>"  # SentencePiece spells stray bytes so
    if not ends.any():
        raise InputError(
            "`packing=sentences` needs a tokenizer that keeps line breaks, but this one has no token with any; "
            "use `tokenizer=byte_level_bpe` or `packing=stream`"
        )
    return ends


def _kind(backend: tokenizers.Tokenizer) -> str:
    layers = json.loads(backend.to_str())
    found = {kind for name in ("decoder", "pre_tokenizer", "model") for kind in _types(layers[name])}
    if _METASPACE in backend.get_vocab(with_added_tokens=False):
        found.add("Metaspace")
    for kind in ("ByteLevel", "WordPiece", "Metaspace"):
        if kind in found:
            return kind
    raise InputError(
        "this needs a byte-level, WordPiece or SentencePiece tokenizer, which shows where words begin, "
        f"but got one of {', '.join(sorted(found))}; use `tokenizer=byte_level_bpe`"
    )


def _types(layer: Any) -> Iterator[str]:
    """The type of a layer of a `tokenizer.json` and of all layers within it."""
    if isinstance(layer, dict):
        if "type" in layer:
            yield layer["type"]
        for name in ("decoders", "pretokenizers"):
            for inner in layer.get(name, ()):
                yield from _types(inner)
