"""Where text comes from: the standard library of the interpreter, and Hugging Face datasets.

Files of the user's own are in `text_files`.
"""

from __future__ import annotations

import hashlib
import importlib
import platform
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from lmmodules.errors import InputError, require


class Corpus(ABC):
    """A sequence of documents that can be read again and again in the same order."""

    @abstractmethod
    def documents(self) -> Iterator[str]:
        """The texts, one after the other."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Key of the content, 16 hexadecimal digits: equal keys promise equal documents."""

    @abstractmethod
    def describe(self) -> str:
        """The corpus in a few words."""

    def num_bytes(self) -> int | None:
        """About how much text there is, in bytes, where that is known without reading it."""
        return None

    def notes(self) -> list[str]:
        """What was left out when the documents were last read, in sentences."""
        return []


class StandardLibrary(Corpus):
    """Python source and prose that every machine has: the standard library, and the topics of its help system.

    All `*.py` files of the running interpreter but those of its tests (about 11 MB), sorted by name, then the texts
    of `pydoc_data.topics`.
    """

    _LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data"})

    def __init__(self) -> None:
        self.root = Path(sysconfig.get_path("stdlib"))
        self._skipped: list[str] = []

    def documents(self) -> Iterator[str]:
        """Source files, then help topics."""
        self._skipped = []
        for path in self._files:
            try:
                yield path.read_bytes().decode("utf-8-sig")
            except UnicodeDecodeError:
                self._skipped.append(path.name)
        yield from _help_topics()

    def fingerprint(self) -> str:
        """A hash of all names and texts."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for path in self._files:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(self.root).as_posix()} {len(content)}\n".encode())
            digest.update(content)
        for topic in _help_topics():
            digest.update(topic.encode())
        return digest.hexdigest()

    def describe(self) -> str:
        """For example `standard library of Python 3.11.7`."""
        return f"standard library of Python {platform.python_version()}"

    def num_bytes(self) -> int:
        """The size of the source files."""
        return sum(path.stat().st_size for path in self._files)

    def notes(self) -> list[str]:
        """Source files in another encoding than UTF-8."""
        return [skipped_sentence(self._skipped)] if self._skipped else []

    @cached_property
    def _files(self) -> list[Path]:
        files = [
            path
            for path in self.root.rglob("*.py")
            if not self._LEFT_OUT.intersection(path.relative_to(self.root).parts) and path.is_file()
        ]
        if not files:
            raise InputError(
                f"the default corpus needs the source of the standard library, but `{self.root}` has no `*.py` files; "
                "use `data.path=DIR_OR_FILES`"
            )
        return sorted(files, key=lambda path: path.relative_to(self.root).as_posix())


def _help_topics() -> list[str]:
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return [topics[name] for name in sorted(topics)]


class HuggingFaceDataset(Corpus):
    """A column of a dataset, from the hub or a folder.

    Args:
        name_or_path: Name on the hub, a folder written by `save_to_disk`, or a folder of data files.
        split: Name of the split; slices such as `train[:1%]` work where the dataset is not streamed.
        text_column: Column with the text.
        streaming: Read over the network while encoding, and keep nothing but tokens.
        config_name: Configuration of the dataset, for those that have several.

    Raises:
        InputError: On first use, when `datasets` is missing or there is no such dataset, split or column.
    """

    def __init__(
        self,
        name_or_path: str,
        *,
        split: str = "train",
        text_column: str = "text",
        streaming: bool = False,
        config_name: str | None = None,
    ) -> None:
        self.name_or_path = name_or_path
        self.split = split
        self.text_column = text_column
        self.streaming = streaming
        self.config_name = config_name
        self._dataset: Any = None

    def documents(self) -> Iterator[str]:
        """The texts of the column; rows without any are left out.

        Raises:
            InputError: When the column holds something other than text.
        """
        for row in self._load().select_columns([self.text_column]):
            text = row[self.text_column]
            if text is None:
                continue
            if not isinstance(text, str):
                raise InputError(
                    f"`data.corpus.text_column` must name a column of text, but `{self.text_column}` of "
                    f"`{self.name_or_path}` holds a {type(text).__name__}"
                )
            yield text

    def fingerprint(self) -> str:
        """The fingerprint that `datasets` keeps; of a stream, its name (the hub does not tell its content)."""
        origin = repr((self.name_or_path, self.config_name))
        content = origin if self.streaming else self._load()._fingerprint
        key = repr((content, self.split, self.text_column))
        return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()

    def describe(self) -> str:
        """For example `roneneldan/TinyStories (train)`."""
        return f"{self.name_or_path} ({self.split})"

    def _load(self) -> Any:
        if self._dataset is None:
            self._dataset = self._open()
            columns = self._dataset.column_names
            if columns is not None and self.text_column not in columns:
                raise InputError(
                    f"`data.corpus.text_column` must be one of {', '.join(columns)}, but is `{self.text_column}`; "
                    f"use `data.corpus.text_column={columns[0]}`"
                )
        return self._dataset

    def _open(self) -> Any:
        datasets = require("datasets", "hub", f"reading the dataset `{self.name_or_path}`")
        folder = Path(self.name_or_path)
        saved = any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
        try:
            if not saved:
                return datasets.load_dataset(
                    self.name_or_path, self.config_name, split=self.split, streaming=self.streaming
                )
            loaded = datasets.load_from_disk(self.name_or_path)
            if isinstance(loaded, datasets.DatasetDict):
                loaded = loaded[self.split]
            return loaded.to_iterable_dataset() if self.streaming else loaded
        except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"`data.corpus.name_or_path` must be a dataset of the hub or a folder with the split `{self.split}`, "
                f"but `{self.name_or_path}` could not be opened ({reason})"
            ) from error


def skipped_sentence(names: list[str]) -> str:
    """Say which files were left out because they are not text."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    files = "1 file that is" if len(names) == 1 else f"{len(names)} files that are"
    return f"left out {files} not UTF-8 text: {shown}"
