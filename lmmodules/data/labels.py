"""Labels as they stand in a table, as the numbers that an objective reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lmmodules.data.labelled_rows import Rows
from lmmodules.data.randomness import Int64Array
from lmmodules.errors import InputError


def lacks_text(value: Any) -> bool:
    """Whether there is no text: nothing, NaN, or white space.

    Args:
        value: Of a text.
    """
    return value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip()


def lacks_label(value: Any) -> bool:
    """Whether there is no label: nothing, or the text `nan`, as programs write it; `none` may well be a class.

    Args:
        value: Of a label.
    """
    return lacks_text(value) or str(value).strip().lower() == "nan"


def label_text(value: Any) -> str:
    """A label as text, so that 1, 1.0 and "1" are one class.

    Args:
        value: As it stands in the table.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def class_names(rows: Rows, column: str) -> tuple[str, ...]:
    """The classes of a column: as the table itself orders them, else numbers by size and words by the alphabet.

    Args:
        rows: With the column.
        column: Of the labels.

    Raises:
        InputError: When there are fewer than two, or the labels are fractional numbers.
    """
    if column in rows.class_names:
        return rows.class_names[column]
    names = {label_text(value) for value in rows.columns[column]}
    fractional = next((name for name in sorted(names) if _number(name) is not None and not _whole(name)), None)
    if fractional is not None:
        raise InputError(
            f"`data.label_column` must hold classes, but `{column}` holds numbers such as {fractional}; use "
            "`objective=regression`, or name the classes with `data.classes=[...]`"
        )
    if len(names) < 2:
        raise InputError(
            f"`data.label_column` must hold at least two classes, but `{column}` of `{rows.files[0]}` has "
            f"{', '.join(sorted(names))}; name them with `data.classes=[...]`"
        )
    return tuple(sorted(names, key=int) if all(map(_whole, names)) else sorted(names))


def encode_classes(rows: Rows, column: str, classes: Sequence[str]) -> Int64Array:
    """The number of each row's class.

    A label is the name of a class. Where no class is named by a number, it may also be its number, counted from 0,
    which is how names are given to a column of numbers.

    Args:
        rows: With the column.
        column: Of the labels.
        classes: Names, in order.

    Returns:
        (N,) int64.

    Raises:
        InputError: When a label is no class.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    if not any(map(_whole, classes)):
        numbers |= {str(number): number for number in range(len(classes))}
    encoded = np.empty(len(rows), dtype=np.int64)
    for index, value in enumerate(rows.columns[column]):
        number = numbers.get(label_text(value))
        if number is None:
            raise InputError(
                f"a label must be one of the classes {', '.join(classes)}, but in {rows.place(index)} it is "
                f"{label_text(value)!r}; name all classes with `data.classes=[...]`"
            )
        encoded[index] = number
    return encoded


def refuse_empty_classes(encoded: Int64Array, classes: Sequence[str]) -> None:
    """Refuse a class that no training row belongs to.

    Args:
        encoded: (N,) from `encode_classes`.
        classes: Names, in order.

    Raises:
        InputError: When one is empty.
    """
    counts = np.bincount(encoded, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        kept = ", ".join(name for name, count in zip(classes, counts, strict=True) if count)
        raise InputError(
            f"every class must have an example to learn from, but {', '.join(f'`{name}`' for name in empty)} has none "
            f"in the training rows; use `data.classes=[{kept}]` or other rows"
        )


def encode_scores(rows: Rows, column: str, scale: float) -> npt.NDArray[np.float32]:
    """The score of each row, divided by `scale`.

    Args:
        rows: With the column.
        column: Of the scores.
        scale: What they are divided by.

    Returns:
        (N,) float32.

    Raises:
        InputError: When a score is not a finite number.
    """
    encoded = np.empty(len(rows), dtype=np.float32)
    for index, value in enumerate(rows.columns[column]):
        number = _number(label_text(value))
        if number is None or not math.isfinite(number):
            raise InputError(
                f"a score must be a finite number, but in {rows.place(index)} `{column}` is {label_text(value)!r}; use "
                "`objective=classification` for classes"
            )
        encoded[index] = number / scale
    return encoded


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _whole(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()
