"""Tokenizers: one face for those trained here, those in a `tokenizer.json`, and those on the hub."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers
from typing_extensions import Self

from lmmodules.data import vocabulary
from lmmodules.errors import InputError, require

ROLES = ("bos", "pad", "eos", "unk", "mask")
_LITTLE_TEXT = 2048
"""Characters that one core has encoded before other threads are awake, the later the busier the machine is."""

_CONVENTIONAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "bos": ("<s>", "[CLS]", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"),
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "eos": ("</s>", "[SEP]", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
    "unk": ("<unk>", "[UNK]"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
}


class Tokenizer:
    """Text to token ids and back, with the special tokens known by their role.

    Text is only ever text: a document that contains the characters `</s>` is encoded as these characters, and never
    as the special token, unless `encode` is asked to.

    Args:
        backend: The tokenizer that does the work. Truncation and padding that it was saved with are switched off.
        special_tokens: Token of each role (`bos`, `pad`, `eos`, `unk`, `mask`). Roles that are left out are found by
            the usual names (`<s>`, `[CLS]`, ...).

    Raises:
        InputError: When `special_tokens` names a role that does not exist or a token that is not in the vocabulary.
    """

    def __init__(self, backend: tokenizers.Tokenizer, special_tokens: Mapping[str, str] | None = None) -> None:
        self.backend = backend
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._ids: dict[str, int] = {}
        self._tokens: dict[str, str] = {}
        given = dict(special_tokens or {})
        for role, token in given.items():
            if role not in ROLES:
                raise InputError(f"`special_tokens` must name the roles {', '.join(ROLES)}, but names `{role}`")
            if backend.token_to_id(token) is None:
                raise InputError(f"the `{role}` token `{token}` must be in the vocabulary, but it is not")
        for role in ROLES:
            for token in [given[role]] if role in given else _CONVENTIONAL_NAMES[role]:
                token_id = backend.token_to_id(token)
                if token_id is not None:
                    self._ids[role], self._tokens[role] = token_id, token
                    break

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], special_tokens: Mapping[str, str] | None = None) -> Self:
        """Read a `tokenizer.json`.

        Args:
            path: The file.
            special_tokens: See the class.

        Raises:
            InputError: When there is no such file, or it is not a tokenizer.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"`tokenizer.path` must be a readable `tokenizer.json`, but is `{path}`") from error
        return cls.from_json(text, special_tokens=special_tokens, origin=str(path))

    @classmethod
    def from_json(
        cls, text: str, special_tokens: Mapping[str, str] | None = None, origin: str = "the given text"
    ) -> Self:
        """Rebuild a tokenizer from `to_json`, or from the text of a `tokenizer.json`.

        Args:
            text: JSON.
            special_tokens: See the class; `to_json` carries its own.
            origin: Where the text comes from, for the error.

        Raises:
            InputError: When the text is not a tokenizer.
        """
        try:
            content = json.loads(text)
            if "backend" in content:
                special_tokens = {**content["special_tokens"], **(special_tokens or {})}
                text = json.dumps(content["backend"])
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises bare Exception
            raise InputError(f"a tokenizer must be in the JSON form of `tokenizers`, but {origin} is not") from error
        return cls(backend, special_tokens)

    @classmethod
    def from_hub(cls, name: str) -> Self:
        """Load the tokenizer of a model on the Hugging Face hub, of a folder saved by transformers, or of a GGUF file.

        Args:
            name: For example `"gpt2"`, a folder, or a GGUF file; a folder that holds nothing but one such means that.

        Raises:
            InputError: When transformers is missing, the name can not be loaded, or the tokenizer is not a fast one.
        """
        transformers = require("transformers", "hub", f"the tokenizer `{name}`")
        place: dict[str, str] = {"pretrained_model_name_or_path": name}
        if (quantised := gguf_file(Path(name).expanduser())) is not None:
            require("gguf", "gguf", f"the tokenizer in `{quantised}`")
            place = {"pretrained_model_name_or_path": str(quantised.parent), "gguf_file": quantised.name}
        try:
            loaded = transformers.AutoTokenizer.from_pretrained(**place, use_fast=True)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"`tokenizer.name` must be a tokenizer of the hub, a folder or a GGUF file, but `{name}` is not"
            ) from error
        if not loaded.is_fast:
            raise InputError(f"`tokenizer.name` must have a fast tokenizer, but `{name}` has none")
        special_tokens = {
            "bos": loaded.cls_token or loaded.bos_token,
            "eos": loaded.sep_token or loaded.eos_token,
            "pad": loaded.pad_token,
            "unk": loaded.unk_token,
            "mask": loaded.mask_token,
        }
        return cls(loaded.backend_tokenizer, {role: token for role, token in special_tokens.items() if token})

    def to_json(self) -> str:
        """Everything there is to know about the tokenizer, as text that fits into a checkpoint."""
        return json.dumps({"special_tokens": self._tokens, "backend": json.loads(self.backend.to_str())})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `tokenizer.json` that the Hugging Face libraries open."""
        self.backend.save(str(path))

    def fingerprint(self) -> str:
        """Key of the content: equal for tokenizers that encode and decode alike, 16 hexadecimal digits."""
        canonical = json.dumps([self._tokens, json.loads(self.backend.to_str())], sort_keys=True)
        return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id, special tokens included."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def has(self, role: str) -> bool:
        """Whether there is a special token of a role (`bos`, `pad`, `eos`, `unk`, `mask`)."""
        return role in self._ids

    def id_of(self, token: str) -> int:
        """The id of a role, or of a special token by its text.

        Args:
            token: `"mask"`, or for example `"<fim_prefix>"`.

        Raises:
            InputError: When the vocabulary has no such token.
        """
        found = self._ids.get(token) if token in ROLES else self.backend.token_to_id(token)
        if found is None:
            raise InputError(
                f"this needs a tokenizer with a `{token}` token, but the vocabulary of {self.vocab_size} has none; "
                "use one that is trained here (`tokenizer=byte_level_bpe`)"
            )
        return found

    @property
    def bos_id(self) -> int:
        """Id of the token that begins a sequence."""
        return self.id_of("bos")

    @property
    def pad_id(self) -> int:
        """Id of the token that fills up short sequences."""
        return self.id_of("pad")

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a document."""
        return self.id_of("eos")

    @property
    def unk_id(self) -> int:
        """Id of the token for what the vocabulary can not spell."""
        return self.id_of("unk")

    @property
    def mask_id(self) -> int:
        """Id of the token that hides another."""
        return self.id_of("mask")

    @cached_property
    def special_ids(self) -> npt.NDArray[np.int64]:
        """Sorted ids of all special tokens."""
        special = {token_id for token_id, token in self.backend.get_added_tokens_decoder().items() if token.special}
        return np.array(sorted(special | set(self._ids.values())), dtype=np.int64)

    @cached_property
    def word_starts(self) -> npt.NDArray[np.bool_]:
        """(V,) whether a token begins a word: special tokens do, and those that begin with white space.

        Raises:
            InputError: See `vocabulary.word_starts`.
        """
        starts = vocabulary.word_starts(self.backend, self.vocab_size)
        starts[self.special_ids] = True
        return starts

    @cached_property
    def line_ends(self) -> npt.NDArray[np.bool_]:
        """(V,) whether a token contains a line break.

        Raises:
            InputError: See `vocabulary.line_ends`.
        """
        return vocabulary.line_ends(self.backend, self.vocab_size)

    def encode(self, text: str, *, parse_special_tokens: bool = False) -> list[int]:
        """Token ids of a text; nothing is put before or after it.

        Args:
            text: Any text.
            parse_special_tokens: Read the names of special tokens in the text as the tokens, as a prompt may want.
        """
        self.backend.encode_special_tokens = not parse_special_tokens
        try:
            [ids] = self.encode_batch([text])
        finally:
            self.backend.encode_special_tokens = True
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several texts, encoded on all cores at once where there is enough for them to do.

        Raises:
            InputError: When a text is none that UTF-8 can hold.
        """
        try:
            if sum(map(len, texts)) < _LITTLE_TEXT:
                return [self.backend.encode(text, add_special_tokens=False).ids for text in texts]
            return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        except TypeError as error:  # of the tokenizer, which takes text as UTF-8
            odd = next((text for text in texts if not _is_utf8(text)), None)
            if odd is None:
                raise
            raise InputError(f"a text must be such that UTF-8 can hold it, but {odd[:40]!r} is not") from error

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids; bytes that are no valid UTF-8 become U+FFFD.

        Args:
            ids: Token ids.
            skip_special_tokens: Leave special tokens out of the text.
        """
        text: str = self.backend.decode([int(token) for token in ids], skip_special_tokens=skip_special_tokens)
        return text

    def __len__(self) -> int:
        return self.vocab_size


def gguf_file(place: Path) -> Path | None:
    """The GGUF file that is meant: the one that is named, or the only one of a folder without a tokenizer's files.

    Args:
        place: A file or a folder.
    """
    if place.suffix == ".gguf" and place.is_file():
        return place
    if not place.is_dir() or any(place.glob("tokenizer*")):
        return None
    files = list(place.glob("*.gguf"))
    return files[0] if len(files) == 1 else None


def _is_utf8(text: str) -> bool:
    try:
        str(text).encode()
    except UnicodeEncodeError:
        return False
    return True
