"""Which rows are taken, and which of these are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from lmmodules.data.corpora import Corpus
from lmmodules.data.labelled_rows import Rows, Wanted
from lmmodules.data.labels import lacks_label, lacks_text
from lmmodules.errors import InputError

Columns = Sequence[list[str]]
"""Texts column by column."""


def complete_rows(rows: Rows, wanted: Wanted, *, skip: bool) -> Rows:
    """Rows that have text and a label.

    Args:
        rows: With the columns wanted.
        wanted: Columns of text, and as the last one that of the labels.
        skip: Leave out the others instead of refusing them.

    Raises:
        InputError: When a row lacks something and is not to be left out.
    """
    label_column = list(wanted)[-1]
    complete = np.ones(len(rows), dtype=np.bool_)
    for column in wanted:
        what, is_missing = ("a label", lacks_label) if column == label_column else ("text", lacks_text)
        for index, value in enumerate(rows.columns[column]):
            if not is_missing(value):
                continue
            if not skip:
                raise InputError(
                    f"every row must have {what}, but in {rows.place(index)} `{column}` is {value!r}; use "
                    "`data.skip_incomplete=true` to leave out such rows"
                )
            complete[index] = False
    if not complete.any():
        raise InputError(
            f"there must be rows with text and a label, but none of the {len(rows)} of `{rows.files[0]}` is one; use "
            f"other columns (`{'`, `'.join(dict.fromkeys(wanted.values()))}`)"
        )
    return rows if complete.all() else rows.take(np.flatnonzero(complete))


def hold_out(rows: Rows, texts: Columns, fraction: float) -> tuple[Rows, Rows]:
    """Divide rows by a hash of their text: equal ones stay on one side, and added ones move no others.

    Args:
        rows: All.
        texts: Of these rows, column by column.
        fraction: Share to hold out; 0 and 1 hold out none and all.

    Returns:
        The rows to train on, and those to validate on.

    Raises:
        InputError: When there are too few rows to divide.
    """
    hashes = (
        hashlib.blake2b("\0".join(row).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for row in zip(*texts, strict=True)
    )
    held_out = np.array([int.from_bytes(digest, "little") < fraction * 2**64 for digest in hashes], dtype=np.bool_)
    if 0 < fraction < 1 and (held_out.all() or not held_out.any()):
        raise InputError(
            f"`data.validation_fraction` must hold out some of the {len(rows)} rows and leave some, but {fraction} "
            f"{'holds out all' if held_out.all() else 'holds out none'}; use `data.validation_path=FILE` or "
            "`data.validation_fraction=0`"
        )
    return rows.take(np.flatnonzero(~held_out)), rows.take(np.flatnonzero(held_out))


class RowTexts(Corpus):
    """The texts of rows, for a tokenizer to learn from.

    Args:
        texts: Column by column.
    """

    def __init__(self, texts: Columns) -> None:
        self.texts = texts

    def documents(self) -> Iterator[str]:
        """Every text of every column."""
        for column in self.texts:
            yield from column

    def fingerprint(self) -> str:
        """A hash of all texts."""
        digest = hashlib.blake2b(digest_size=8)
        for text in self.documents():
            digest.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def describe(self) -> str:
        """What it is."""
        return "the texts of the rows"
