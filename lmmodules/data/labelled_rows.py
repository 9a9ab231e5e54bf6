"""Rows of text with a label: where they come from, and where each of them stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmmodules.data.randomness import Int64Array
from lmmodules.data.row_files import check_columns, read_file
from lmmodules.data.text_files import PathLike, TextFiles
from lmmodules.errors import InputError, require

Wanted = Mapping[str, str]
"""Columns to read, each with the option that names it."""

ROW_SUFFIXES = (".tsv", ".csv", ".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Rows:
    """Rows of one or several files, column by column.

    Attributes:
        columns: Values of each column, in the order of the rows.
        files: Name of each file.
        file_numbers: (N,) which file a row is from.
        row_numbers: (N,) which row of that file it is, from 1 and without counting the header.
        class_names: Names of the classes of a column, where the file itself says them.
        num_malformed: Rows that were left out because they had another number of columns.
    """

    columns: dict[str, list[Any]]
    files: tuple[str, ...]
    file_numbers: Int64Array
    row_numbers: Int64Array
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    num_malformed: int = 0

    def __len__(self) -> int:
        return len(self.row_numbers)

    def take(self, indices: Int64Array) -> Rows:
        """Some of the rows.

        Args:
            indices: (M,) which.
        """
        return Rows(
            {name: [values[index] for index in indices] for name, values in self.columns.items()},
            self.files,
            self.file_numbers[indices],
            self.row_numbers[indices],
            self.class_names,
            self.num_malformed,
        )

    def place(self, index: int) -> str:
        """Where a row stands, for a sentence: for example ``row 17 of `train.tsv` ``.

        Args:
            index: Of the row.
        """
        return f"row {self.row_numbers[index]} of `{self.files[self.file_numbers[index]]}`"


class LabelledSource(ABC):
    """Rows to train on, and rows to validate on where these are others."""

    @abstractmethod
    def train(self, wanted: Wanted) -> Rows:
        """The rows to train on.

        Args:
            wanted: Columns to read, each with the option that names it, for the error.

        Raises:
            InputError: When there is no such column, or the rows cannot be read.
        """

    @abstractmethod
    def validation(self, wanted: Wanted) -> Rows | None:
        """The rows to validate on; `None` where they are to be held out of the others.

        Args:
            wanted: See `train`.

        Raises:
            InputError: See `train`.
        """

    @abstractmethod
    def describe(self) -> str:
        """The source in a few words."""


class LabelledFiles(LabelledSource):
    """Tables in files: `.tsv`, `.csv`, `.jsonl` and `.parquet`, also compressed (`.gz`, `.zst`).

    A `.tsv` is cut at tabs, and quotation marks are characters, as in the files of GLUE. A `.csv` may quote fields.

    Args:
        path: A file, a directory, a glob, or a list of these.
        validation_path: Likewise, to validate on; `None` leaves it to the data module to hold some out.
        header: Whether the first line of a `.tsv` or `.csv` names the columns; otherwise they are called 0, 1, 2, ...
        delimiter: What stands between the fields of a `.csv`; `None` is a comma.
        skip_malformed: Leave out rows of a `.tsv` or `.csv` with another number of columns than the first, and count
            them, instead of refusing the file.

    Raises:
        InputError: When a path does not exist.
    """

    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        validation_path: PathLike | Sequence[PathLike] | None = None,
        *,
        header: bool = True,
        delimiter: str | None = None,
        skip_malformed: bool = False,
    ) -> None:
        if delimiter is not None and len(delimiter.replace("\\t", "\t")) != 1:
            raise InputError(f"`data.delimiter` must be one character, but is {delimiter!r}; use `data.delimiter=';'`")
        self.files = _found(path, "path")
        self.validation_files = None if validation_path is None else _found(validation_path, "validation_path")
        self.header = header
        self.delimiter = None if delimiter is None else delimiter.replace("\\t", "\t")
        self.skip_malformed = skip_malformed

    def train(self, wanted: Wanted) -> Rows:
        """The rows of all files of `path`."""
        return self._read(self.files, wanted)

    def validation(self, wanted: Wanted) -> Rows | None:
        """The rows of all files of `validation_path`."""
        return None if self.validation_files is None else self._read(self.validation_files, wanted)

    def describe(self) -> str:
        """For example `reviews.tsv`."""
        shown = ", ".join(str(file) for file in self.files[:2]) + (", ..." if len(self.files) > 2 else "")
        return shown if self.validation_files is None else f"{shown}; validation {self.validation_files[0]}"

    def _read(self, files: Sequence[Path], wanted: Wanted) -> Rows:
        columns: dict[str, list[Any]] = {name: [] for name in wanted}
        file_numbers, row_numbers, malformed = [], [], 0
        for number, file in enumerate(files):
            values, numbers, skipped = read_file(
                file, wanted, header=self.header, delimiter=self.delimiter, skip_malformed=self.skip_malformed
            )
            for name in wanted:
                columns[name] += values[name]
            file_numbers.append(np.full(len(numbers), number))
            row_numbers.append(np.array(numbers, dtype=np.int64))
            malformed += skipped
        return Rows(
            columns,
            tuple(str(file) for file in files),
            np.concatenate(file_numbers),
            np.concatenate(row_numbers),
            num_malformed=malformed,
        )


def _found(path: PathLike | Sequence[PathLike], option: str) -> list[Path]:
    try:
        files = TextFiles(path).files
    except InputError as error:
        raise InputError(str(error).replace("`data.path`", f"`data.{option}`")) from error
    kept = [file for file in files if file.name.lower().removesuffix(".gz").removesuffix(".zst").endswith(ROW_SUFFIXES)]
    if not kept:
        raise InputError(
            f"`data.{option}` must lead to rows in one of {', '.join(ROW_SUFFIXES)}, but `{files[0]}` is something else"
        )
    return kept


class LabelledDataset(LabelledSource):
    """Splits of a dataset of the Hugging Face hub, or of a folder that `datasets` has saved.

    Args:
        name_or_path: Name on the hub, or a folder.
        config_name: Configuration of the dataset, for those that have several.
        split: Name of the split to train on.
        validation_split: Name of the split to validate on; `None` leaves it to the data module to hold some out.

    Raises:
        InputError: On first use, when `datasets` is missing or there is no such dataset or split.
    """

    def __init__(
        self,
        name_or_path: str,
        *,
        config_name: str | None = None,
        split: str = "train",
        validation_split: str | None = "validation",
    ) -> None:
        self.name_or_path = name_or_path
        self.config_name = config_name
        self.split = split
        self.validation_split = validation_split

    def train(self, wanted: Wanted) -> Rows:
        """The rows of `split`."""
        return self._read(self.split, wanted)

    def validation(self, wanted: Wanted) -> Rows | None:
        """The rows of `validation_split`."""
        return None if self.validation_split is None else self._read(self.validation_split, wanted)

    def describe(self) -> str:
        """For example `nyu-mll/glue/sst2`."""
        return f"{self.name_or_path}/{self.config_name}" if self.config_name else self.name_or_path

    def _read(self, split: str, wanted: Wanted) -> Rows:
        dataset = self._open(split)
        check_columns(dataset.column_names, wanted, self.describe())
        features = {name: dataset.features[name] for name in wanted}
        names = {name: tuple(feature.names) for name, feature in features.items() if hasattr(feature, "int2str")}
        columns = {name: list(dataset[name]) for name in wanted}
        for name, of_class in names.items():
            # A label that the hub keeps to itself is -1, which names nothing.
            columns[name] = [of_class[value] if value is not None and value >= 0 else value for value in columns[name]]
        numbers = np.arange(1, len(dataset) + 1)
        return Rows(columns, (f"{self.describe()} ({split})",), np.zeros_like(numbers), numbers, names)

    def _open(self, split: str) -> Any:
        datasets = require("datasets", "hub", f"reading the dataset `{self.name_or_path}`")
        folder = Path(self.name_or_path).expanduser()
        try:
            if (folder / "dataset_dict.json").is_file():
                return datasets.load_from_disk(str(folder))[split]
            if (folder / "state.json").is_file():
                return datasets.load_from_disk(str(folder))
            return datasets.load_dataset(self.name_or_path, self.config_name, split=split)
        except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"`{self.describe()}` must be a dataset of the hub or a folder with the split `{split}`, but could not "
                f"be opened ({reason}); name the splits with `data.source.split=` and `data.source.validation_split=`"
            ) from error
