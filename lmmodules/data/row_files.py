"""One file of rows: tab- or comma-separated, JSON lines or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lmmodules.data.compression import damage, kind_and_compression, open_decompressed
from lmmodules.errors import InputError, require

Columns = dict[str, list[Any]]
_LONGEST_FIELD = 2**31 - 1


def read_file(
    file: Path,
    wanted: Mapping[str, str],
    *,
    header: bool = True,
    delimiter: str | None = None,
    skip_malformed: bool = False,
) -> tuple[Columns, list[int], int]:
    """Read the columns that are wanted.

    Args:
        file: Its ending says what it is.
        wanted: Columns, each with the option that names it, for the error.
        header: See `LabelledFiles`.
        delimiter: See `LabelledFiles`.
        skip_malformed: See `LabelledFiles`.

    Returns:
        The columns, the number of each row in the file, and how many rows were left out.

    Raises:
        InputError: When a column is missing, a row has another number of columns, there are no rows, or the file is
            damaged, or not UTF-8.
    """
    kind, compression = kind_and_compression(file)
    skipped = 0
    try:
        if kind == ".parquet":
            columns, numbers = _parquet(file, wanted)
        else:
            with io.TextIOWrapper(open_decompressed(file), encoding="utf-8-sig", newline="") as stream:
                if kind == ".jsonl":
                    columns, numbers = _json_lines(file, stream, wanted)
                else:
                    fields = _fields(file, stream, delimiter)
                    columns, numbers, skipped = _table(file, fields, wanted, header, skip_malformed)
    except UnicodeDecodeError as error:
        raise InputError(f"`{file}` must be UTF-8, but byte {error.start} is not; convert it with `iconv`") from error
    except damage(compression) as error:
        raise InputError(f"`{file}` must be a complete compressed file, but it is truncated or damaged") from error
    if not numbers:
        raise InputError(f"`{file}` must hold rows, but there are none; use another `data.path`")
    return columns, numbers, skipped


def check_columns(present: Iterable[str], wanted: Mapping[str, str], origin: str) -> None:
    """Refuse a column that is not there, naming those that are.

    Args:
        present: Columns of the table.
        wanted: Columns, each with the option that names it.
        origin: What to call the table.

    Raises:
        InputError: When one is missing.
    """
    names = list(present)
    for column, option in wanted.items():
        if column in names:
            continue
        if len(names) == 1 and len(wanted) > 1:
            raise InputError(
                f"`{option}` is `{column}`, but `{origin}` has a single column, `{names[0]}`; name the file `.tsv` if "
                "its columns stand between tabs, or say what they stand between with `data.delimiter=';'`"
            )
        raise InputError(
            f"`{option}` must name columns of `{origin}`, which are {', '.join(names)}, but is `{column}`; "
            f"use for example `{option}={'[' + names[0] + ']' if option.endswith('s') else names[-1]}`"
        )


def _fields(file: Path, stream: io.TextIOWrapper, delimiter: str | None) -> Iterator[list[str]]:
    """The fields of every line that is not blank."""
    is_tsv = file.name.lower().removesuffix(".gz").removesuffix(".zst").endswith(".tsv")
    if is_tsv and delimiter is None:
        stripped = (line.rstrip("\r\n") for line in stream)
        return (line.split("\t") for line in stripped if line)
    csv.field_size_limit(_LONGEST_FIELD)
    return (fields for fields in csv.reader(stream, delimiter=delimiter or ",") if fields)


def _table(
    file: Path, lines: Iterator[list[str]], wanted: Mapping[str, str], header: bool, skip_malformed: bool
) -> tuple[Columns, list[int], int]:
    first = next(lines, None)
    if first is None:
        return {}, [], 0
    names = first if header else [str(number) for number in range(len(first))]
    check_columns(names, wanted, str(file))
    places = {column: names.index(column) for column in wanted}
    columns: Columns = {column: [] for column in wanted}
    numbers: list[int] = []
    skipped = 0
    for number, fields in enumerate(lines if header else _chain(first, lines), start=1):
        if len(fields) != len(names):
            if not skip_malformed:
                raise InputError(
                    f"every row must have as many columns as the first line of `{file}` ({len(names)}), but row "
                    f"{number} has {len(fields)}; use `data.skip_incomplete=true` to leave out such rows"
                )
            skipped += 1
            continue
        numbers.append(number)
        for column, place in places.items():
            columns[column].append(fields[place])
    return columns, numbers, skipped


def _chain(first: list[str], rest: Iterator[list[str]]) -> Iterator[list[str]]:
    yield first
    yield from rest


def _json_lines(file: Path, stream: io.TextIOWrapper, wanted: Mapping[str, str]) -> tuple[Columns, list[int]]:
    columns: Columns = {column: [] for column in wanted}
    numbers: list[int] = []
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"every line of `{file}` must be JSON, but line {number} is not ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"every line of `{file}` must be a JSON object, but line {number} is not")
        if not numbers:
            check_columns(row, wanted, str(file))
        numbers.append(number)
        for column in wanted:
            columns[column].append(row.get(column))
    return columns, numbers


def _parquet(file: Path, wanted: Mapping[str, str]) -> tuple[Columns, list[int]]:
    parquet = require("pyarrow.parquet", "parquet", f"reading `{file}`")
    arrow = require("pyarrow", "parquet", f"reading `{file}`")
    try:
        opened = parquet.ParquetFile(file)
        check_columns(opened.schema_arrow.names, wanted, str(file))
        table = opened.read(columns=list(wanted))
    except arrow.ArrowInvalid as error:
        raise InputError(f"`{file}` must be a Parquet file, but it is damaged or something else") from error
    return {column: table[column].to_pylist() for column in wanted}, list(range(1, table.num_rows + 1))
