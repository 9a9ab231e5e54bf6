"""How one text or two become a sequence with special tokens, and where it is cut when it is too long."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from lmmodules.data.cache import make_once
from lmmodules.data.randomness import Int64Array
from lmmodules.data.store import token_dtype
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError

_TEXTS_AT_ONCE = 16384
_FORMAT = 1


@dataclass(frozen=True)
class SequenceLayout:
    """Special tokens around a text, and between two.

    Attributes:
        num_separators: End tokens between the two of a pair.
        token_types: Whether the tokens of the second are of type 1.
    """

    num_separators: int
    token_types: bool

    def num_special(self, num_texts: int) -> int:
        """Special tokens of a sequence of one text or two.

        Args:
            num_texts: 1 or 2.
        """
        return 2 if num_texts == 1 else 2 + self.num_separators

    def describe(self, tokenizer: Tokenizer, num_texts: int) -> str:
        """For example `<s> A </s></s> B </s>`.

        Args:
            tokenizer: Names the special tokens.
            num_texts: 1 or 2.
        """
        bos, eos = (str(tokenizer.backend.id_to_token(token)) for token in (tokenizer.bos_id, tokenizer.eos_id))
        pair = f"{bos} A {eos * self.num_separators} B {eos}"
        return f"{bos} A {eos}" if num_texts == 1 else pair


LAYOUTS: Mapping[str, SequenceLayout] = MappingProxyType(
    {"roberta": SequenceLayout(2, token_types=False), "bert": SequenceLayout(1, token_types=True)}
)
"""`<s> A </s></s> B </s>` and `[CLS] A [SEP] B [SEP]` by the names they have in a configuration."""


def choose_layout(name: str | None, tokenizer: Tokenizer) -> SequenceLayout:
    """The layout of that name, or the one that a tokenizer's models were trained with.

    Args:
        name: `roberta` or `bert`; `None` is BERT's for a tokenizer whose sequences begin with `[CLS]`, and RoBERTa's
            for any other.
        tokenizer: The tokenizer.

    Raises:
        InputError: When there is no layout of that name.
    """
    if name is None:
        name = "bert" if tokenizer.backend.id_to_token(tokenizer.bos_id) == "[CLS]" else "roberta"
    if name not in LAYOUTS:
        raise InputError(f"`data.layout` must be one of {', '.join(LAYOUTS)}, but is {name}; use `data.layout=null`")
    return LAYOUTS[name]


@dataclass(frozen=True)
class EncodedSequences:
    """Token ids of N sequences, one after the other.

    Attributes:
        tokens: Ids of all sequences.
        offsets: (N + 1,) where each begins, and where the last ends.
        first_lengths: (N,) tokens up to the second text, special ones included.
        num_cut: Sequences that were too long.
    """

    tokens: npt.NDArray[np.integer[Any]]
    offsets: Int64Array
    first_lengths: Int64Array
    num_cut: int

    def __len__(self) -> int:
        return len(self.first_lengths)

    @property
    def lengths(self) -> Int64Array:
        """(N,) tokens of each sequence."""
        lengths: Int64Array = np.diff(self.offsets)
        return lengths

    @classmethod
    def pack(
        cls, sequences: Sequence[Sequence[int]], first_lengths: Sequence[int], num_cut: int, vocab_size: int
    ) -> EncodedSequences:
        """Put sequences one after the other.

        Args:
            sequences: Token ids.
            first_lengths: See the class.
            num_cut: See the class.
            vocab_size: Says how many bytes an id takes.
        """
        offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
        np.cumsum([len(sequence) for sequence in sequences], out=offsets[1:])
        flat = (token for sequence in sequences for token in sequence)
        tokens = np.fromiter(flat, dtype=token_dtype(vocab_size), count=int(offsets[-1]))
        return cls(tokens, offsets, np.array(first_lengths, dtype=np.int64), num_cut)

    def save(self, path: Path) -> None:
        """Write everything into a new directory.

        Args:
            path: The directory.
        """
        path.mkdir()
        np.save(path / "tokens.npy", self.tokens)
        np.savez(path / "index.npz", offsets=self.offsets, first_lengths=self.first_lengths, num_cut=self.num_cut)

    @classmethod
    def open(cls, path: Path) -> EncodedSequences:
        """Open what `save` wrote, the tokens as a memory map.

        Args:
            path: The directory.
        """
        with np.load(path / "index.npz") as index:
            offsets, first_lengths, num_cut = index["offsets"], index["first_lengths"], int(index["num_cut"])
        return cls(np.load(path / "tokens.npy", mmap_mode="r"), offsets, first_lengths, num_cut)


def encode_texts(
    texts: Sequence[Sequence[str]], tokenizer: Tokenizer, layout: SequenceLayout, max_length: int
) -> EncodedSequences:
    """Lay out texts, or pairs of them, as sequences.

    A sequence that is too long loses tokens from the end of the longer text, one at a time, and of two equally long
    ones from the second.

    Args:
        texts: One list of N texts, or two.
        tokenizer: Turns them into ids.
        layout: Special tokens.
        max_length: Most tokens of a sequence.

    Raises:
        InputError: When `max_length` leaves no room for the texts.

    Source:
        Cutting: Devlin et al. 2019; google-research/bert, `run_classifier.py`, `_truncate_seq_pair`.

    Differences:
        fairseq lets a sequence that is too long fail, or cuts the end of the whole, which is of the second text only.
    """
    budget = max_length - layout.num_special(len(texts))
    if budget < len(texts):
        raise InputError(
            f"`data.max_length` must leave room for the text beside {layout.num_special(len(texts))} special tokens, "
            f"but is {max_length}; use `data.max_length=128`"
        )
    first = encode_all(texts[0], tokenizer)
    second = encode_all(texts[1], tokenizer) if len(texts) == 2 else [[] for _ in first]
    begin, end = [tokenizer.bos_id], [tokenizer.eos_id]
    between = end * layout.num_separators if len(texts) == 2 else []
    sequences, first_lengths, num_cut = [], [], 0
    for one, two in zip(first, second, strict=True):
        if len(one) + len(two) > budget:
            num_cut += 1
            kept = min(len(two), max(budget // 2, budget - len(one)))
            one, two = one[: budget - kept], two[:kept]
        sequences.append(begin + one + between + two + end)
        # Of several separators the first closes the first text; BERT's only one does.
        first_lengths.append(len(one) + 2)
    return EncodedSequences.pack(sequences, first_lengths, num_cut, tokenizer.vocab_size)


def encode_once(
    cache_dir: Path,
    texts: Sequence[Sequence[str]],
    tokenizer: Tokenizer,
    layout: SequenceLayout,
    max_length: int,
) -> EncodedSequences:
    """Do what `encode_texts` does, or open what was made of the same texts before.

    Args:
        cache_dir: Where sequences are kept.
        texts: See `encode_texts`.
        tokenizer: See `encode_texts`.
        layout: See `encode_texts`.
        max_length: See `encode_texts`.

    Raises:
        InputError: See `encode_texts`; or when the disk is full.
    """
    digest = hashlib.blake2b(repr((_FORMAT, tokenizer.fingerprint(), layout, max_length)).encode(), digest_size=8)
    for column in texts:
        for text in column:
            digest.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    key = digest.hexdigest()
    path = make_once(
        cache_dir / "sequences" / key, lambda path: encode_texts(texts, tokenizer, layout, max_length).save(path)
    )
    return EncodedSequences.open(path)


def encode_all(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of texts, without white space around them.

    Args:
        texts: Any number.
        tokenizer: Turns them into ids.
    """
    encoded: list[list[int]] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        encoded += tokenizer.encode_batch([text.strip() for text in texts[start : start + _TEXTS_AT_ONCE]])
    return encoded
