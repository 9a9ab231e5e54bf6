"""The token store: a corpus as one long array of token ids on disk, mapped into memory and never loaded.

A store is a directory with `tokens.bin` (uint16 or uint32, little endian), `documents.bin` (int64 offsets, one more
than documents) and `store.json`, which says what the others must be. `</s>` ends every document. Where tokens do not
tell the lines of the text, `sentences.bin` does: int64, where each line ends.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from lmmodules.data.randomness import Int64Array
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError

FORMAT = 1
_HEADER, _TOKENS, _DOCUMENTS, _SENTENCES = "store.json", "tokens.bin", "documents.bin", "sentences.bin"
_COUNTED_AT_ONCE = 4 * 1024 * 1024


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest of uint16 and uint32 that holds every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


@dataclass(frozen=True)
class StoreHeader:
    """What `store.json` holds.

    Attributes:
        num_tokens: Length of `tokens.bin`, in tokens.
        num_documents: Documents in the store.
        vocab_size: Ids of the tokenizer; every token is below.
        tokenizer: Fingerprint of the tokenizer.
        corpus: Fingerprint of the corpus.
        notes: What was left out of the corpus, in sentences.
        format: Version of this layout.
        num_sentences: Length of `sentences.bin`; None where there is none.
    """

    num_tokens: int
    num_documents: int
    vocab_size: int
    tokenizer: str
    corpus: str
    notes: list[str] = field(default_factory=list)
    format: int = FORMAT
    num_sentences: int | None = None

    def content(self) -> dict[str, Any]:
        """What is written: the fields that say something."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def checksum(self) -> str:
        """A hash of all that is written, 16 hexadecimal digits."""
        return hashlib.blake2b(json.dumps(self.content(), sort_keys=True).encode(), digest_size=8).hexdigest()


class TokenStore:
    """A corpus of tokens on disk.

    Opening checks that the directory is whole. The files are mapped on first use and mapped again in every process
    that a store is sent to, so passing a store to workers costs nothing.

    Args:
        path: The directory.
        tokenizer: The tokenizer that the store must have been written with; None accepts any.

    Raises:
        InputError: When the directory is no store, was truncated or changed, or belongs to another tokenizer.
    """

    def __init__(self, path: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> None:
        self.path = Path(path)
        self.header = self._read_header()
        self.dtype = token_dtype(self.header.vocab_size)
        self._check_size(_TOKENS, self.header.num_tokens * self.dtype.itemsize)
        self._check_size(_DOCUMENTS, (self.header.num_documents + 1) * 8)
        if self.header.num_sentences is not None:
            self._check_size(_SENTENCES, self.header.num_sentences * 8)
        if tokenizer is not None and tokenizer.fingerprint() != self.header.tokenizer:
            raise InputError(
                f"the token store `{self.path}` must be read with the tokenizer that wrote it "
                f"({self.header.tokenizer}), but `tokenizer` is {tokenizer.fingerprint()}; use the tokenizer that "
                "lies beside the store, or another `data.cache_dir`"
            )
        self._tokens: npt.NDArray[Any] | None = None
        self._offsets: Int64Array | None = None
        self._sentences: Int64Array | None = None

    @property
    def tokens(self) -> npt.NDArray[Any]:
        """(N,) all token ids, a read-only memory map."""
        if self._tokens is None:
            # A plain array over the map: slicing one costs a tenth of slicing a `memmap`.
            self._tokens = np.asarray(np.memmap(self.path / _TOKENS, dtype=self.dtype, mode="r"))
        return self._tokens

    @property
    def offsets(self) -> Int64Array:
        """(documents + 1,) int64 where each document begins, and the end of the last; a read-only memory map."""
        if self._offsets is None:
            self._offsets = np.memmap(self.path / _DOCUMENTS, dtype="<i8", mode="r")
        return self._offsets

    @property
    def sentences(self) -> Int64Array | None:
        """(sentences,) int64 where each line ends, a read-only memory map; None where the tokens themselves tell."""
        if self._sentences is None and self.header.num_sentences is not None:
            empty = self.header.num_sentences == 0  # of which there is no map
            self._sentences = (
                np.empty(0, dtype=np.int64) if empty else np.memmap(self.path / _SENTENCES, dtype="<i8", mode="r")
            )
        return self._sentences

    def __len__(self) -> int:
        return self.header.num_tokens

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map would carry the whole corpus.
        return {**self.__dict__, "_tokens": None, "_offsets": None, "_sentences": None}

    def unigram_entropy(self) -> float:
        """Entropy of the frequencies of the tokens, in nats: the loss of the best model that ignores the context."""
        counts = np.zeros(self.header.vocab_size, dtype=np.int64)
        for start in range(0, len(self), _COUNTED_AT_ONCE):
            counts += np.bincount(self.tokens[start : start + _COUNTED_AT_ONCE], minlength=len(counts))
        frequencies = counts[counts > 0] / len(self)
        return float(-(frequencies * np.log(frequencies)).sum())

    def _read_header(self) -> StoreHeader:
        try:
            content = json.loads((self.path / _HEADER).read_text(encoding="utf-8"))
            checksum = content.pop("checksum")
            header = StoreHeader(**content)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"`{self.path}` must be a token store, but has no readable `{_HEADER}`") from error
        if checksum != header.checksum():
            raise InputError(f"`{self.path / _HEADER}` must be as it was written, but was changed; {self._remedy()}")
        if header.format != FORMAT:
            raise InputError(
                f"the token store `{self.path}` must have format {FORMAT}, but has {header.format}; {self._remedy()}"
            )
        return header

    def _check_size(self, name: str, expected: int) -> None:
        file = self.path / name
        size = file.stat().st_size if file.is_file() else 0
        if size != expected:
            raise InputError(
                f"`{file}` must have {expected} bytes, but has {size}: the token store is truncated; {self._remedy()}"
            )

    def _remedy(self) -> str:
        return f"delete `{self.path}` to have it written anew"


class TokenStoreWriter:
    """Writes a store by appending to it. What is written counts as a store only after `finish`.

    Args:
        path: The directory; it is created.
        vocab_size: Ids of the tokenizer.
        eos_id: The token that ends every document.
        marks_lines: Keep where lines end beside the tokens, which do not tell.
    """

    def __init__(self, path: Path, vocab_size: int, eos_id: int, marks_lines: bool = False) -> None:
        self.path = path
        self.vocab_size = vocab_size
        self.eos = np.array([eos_id], dtype=token_dtype(vocab_size))
        self.num_tokens = 0
        self.num_documents = 0
        path.mkdir(parents=True)
        self._tokens: BinaryIO = (path / _TOKENS).open("wb")
        self._offsets: BinaryIO = (path / _DOCUMENTS).open("wb")
        self._offsets.write(np.zeros(1, dtype="<i8").tobytes())
        self._sentences: BinaryIO | None = (path / _SENTENCES).open("wb") if marks_lines else None
        self.num_sentences = 0
        self._line_start = 0

    def append(self, ids: npt.NDArray[Any], *, ends_document: bool, ends_line: bool = False) -> None:
        """Add tokens to the current document.

        Args:
            ids: (n,) token ids in the type of the store.
            ends_document: Whether to put `</s>` behind them.
            ends_line: Whether the line ends with them. A line without any token is none.
        """
        self._tokens.write(ids.tobytes())
        self.num_tokens += len(ids)
        if ends_line and self._sentences is not None and self.num_tokens > self._line_start:
            self._sentences.write(np.array([self.num_tokens], dtype="<i8").tobytes())
            self.num_sentences += 1
            self._line_start = self.num_tokens
        if ends_document:
            self._tokens.write(self.eos.tobytes())
            self.num_tokens += 1
            self.end_document()

    def end_document(self) -> None:
        """Let the next token begin a document."""
        self.num_documents += 1
        self._line_start = self.num_tokens
        self._offsets.write(np.array([self.num_tokens], dtype="<i8").tobytes())

    def finish(self, tokenizer: str, corpus: str, notes: list[str]) -> None:
        """Bring everything to the disk and write the header.

        Args:
            tokenizer: Fingerprint of the tokenizer.
            corpus: Fingerprint of the corpus.
            notes: What was left out of the corpus, in sentences.
        """
        for part in self._files():
            part.flush()
            os.fsync(part.fileno())
        self.close()
        header = StoreHeader(
            self.num_tokens,
            self.num_documents,
            self.vocab_size,
            tokenizer,
            corpus,
            notes,
            num_sentences=None if self._sentences is None else self.num_sentences,
        )
        content = {**header.content(), "checksum": header.checksum()}
        with (self.path / _HEADER).open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files; without `finish` they are no store."""
        for part in self._files():
            part.close()

    def _files(self) -> list[BinaryIO]:
        return [part for part in (self._tokens, self._offsets, self._sentences) if part is not None]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
