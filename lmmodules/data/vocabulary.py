"""What the spelling of a vocabulary tells: which tokens begin a word, hold a line break, or are white space."""

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
_METASPACE_NEWLINE = "<0x0A>"  # SentencePiece spells stray bytes so


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
    ends = _hold_line_break(backend, vocab_size)
    if not ends.any():
        raise InputError(
            "to find lines among tokens takes a tokenizer that keeps line breaks, but this one has no token with any; "
            "use `tokenizer=byte_level_bpe` or `packing=stream`"
        )
    return ends


def keeps_line_breaks(backend: tokenizers.Tokenizer) -> bool:
    """Whether the tokens of a text tell where its lines end: byte-level ones do, WordPiece's do not.

    Args:
        backend: The tokenizer.
    """
    ids = backend.encode("a\nb", add_special_tokens=False).ids
    return bool(_hold_line_break(backend, max([*backend.get_vocab().values(), *ids]) + 1)[ids].any())


def white_space(backend: tokenizers.Tokenizer, vocab_size: int) -> npt.NDArray[np.bool_]:
    """Mark the tokens that are nothing but white space.

    Args:
        backend: The tokenizer.
        vocab_size: Number of ids, V.
    """
    spaces = "".join(_BYTE_LEVEL_SPACES) if "ByteLevel" in _kinds(backend) else f"{_METASPACE} \t\n\v\f\r"
    blank = np.zeros(vocab_size, dtype=np.bool_)
    for token, token_id in backend.get_vocab(with_added_tokens=True).items():
        blank[token_id] = token == _METASPACE_NEWLINE or not token.strip(spaces)
    return blank


def _hold_line_break(backend: tokenizers.Tokenizer, vocab_size: int) -> npt.NDArray[np.bool_]:
    newline = _BYTE_LEVEL_NEWLINE if "ByteLevel" in _kinds(backend) else "\n"
    ends = np.zeros(vocab_size, dtype=np.bool_)
    for token, token_id in backend.get_vocab(with_added_tokens=True).items():
        ends[token_id] = newline in token or token == _METASPACE_NEWLINE
    return ends


def _kinds(backend: tokenizers.Tokenizer) -> set[str]:
    layers = json.loads(backend.to_str())
    found = {kind for name in ("decoder", "pre_tokenizer", "model") for kind in _types(layers[name])}
    if _METASPACE in backend.get_vocab(with_added_tokens=False):
        found.add("Metaspace")
    return found


def _kind(backend: tokenizers.Tokenizer) -> str:
    found = _kinds(backend)
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
