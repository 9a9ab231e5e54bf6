"""Facts as (subject, object) pairs by relation: those of LAMA's files, and some that every Python knows."""

from __future__ import annotations

import json
import sys
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from lmmodules.data.text_files import PathLike
from lmmodules.errors import InputError

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Fact:
    """A fact of a relation.

    Args:
        subject: What is asked about.
        object: The answer.
    """

    subject: str
    object: str


class FactSource(ABC):
    """Relations, with the facts of each in three parts."""

    @abstractmethod
    def relations(self) -> list[str]:
        """Names of all relations."""

    @abstractmethod
    def facts(self, relation: str, split: str) -> list[Fact]:
        """The facts of a part of a relation.

        Args:
            relation: Its name.
            split: `train`, `dev` or `test`.
        """

    @abstractmethod
    def sentence(self, relation: str) -> str:
        """The relation as a sentence by hand, with [X] for the subject and [Y] for the object.

        Args:
            relation: Its name.
        """

    @abstractmethod
    def describe(self) -> str:
        """The source in a few words."""


class LamaFiles(FactSource):
    """LAMA as AutoPrompt divided it: `RELATION/{train,dev,test}.jsonl` and `relations.jsonl`.

    The relations lie in the folder itself or under `fact-retrieval/original`, as in the authors' archive. The facts
    are under CC BY-NC 4.0, and are not part of this package.

    Args:
        path: The folder.

    Source:
        Petroni et al. 2019, "Language Models as Knowledge Bases?"; the README of THUDM/P-tuning, `LAMA`.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path).expanduser()

    @cached_property
    def folder(self) -> Path:
        """Where the relations lie.

        Raises:
            InputError: When there are none.
        """
        for folder in (self.path / "fact-retrieval" / "original", self.path):
            if any(folder.glob("*/train.jsonl")):
                return folder
        raise InputError(
            f"`data.path` must be a folder that holds RELATION/train.jsonl, but `{self.path}` does not; use for "
            "example `data.path=LAMA`"
        )

    def relations(self) -> list[str]:
        """Names of all relations, sorted."""
        return sorted(path.parent.name for path in self.folder.glob("*/train.jsonl"))

    def facts(self, relation: str, split: str) -> list[Fact]:
        """The facts of a part of a relation.

        Args:
            relation: Its name.
            split: `train`, `dev` or `test`.

        Raises:
            InputError: When the file is missing, or a line is not a fact.
        """
        file = self.folder / relation / f"{split}.jsonl"
        rows = list(_rows(file, ("sub_label", "obj_label"), "data.relations"))
        return [Fact(row["sub_label"], row["obj_label"]) for row in rows]

    def sentence(self, relation: str) -> str:
        """The sentence of `relations.jsonl`.

        Args:
            relation: Its name.

        Raises:
            InputError: When there is none.
        """
        if relation not in self._sentences:
            raise InputError(
                f"`data.template=manual` needs a template of {relation}, but `{self.path / 'relations.jsonl'}` has none"
            )
        return self._sentences[relation]

    @cached_property
    def _sentences(self) -> dict[str, str]:
        rows = _rows(self.path / "relations.jsonl", ("relation", "template"), "data.template")
        return {row["relation"]: row["template"] for row in rows}

    def describe(self) -> str:
        """The folder."""
        return f"facts in {self.path}"


class UnicodeFacts(FactSource):
    """What Python knows of the characters of Unicode: whether a name is that of a letter, and which way it is written.

    Real facts that every machine has. A character belongs to a part by its number: 7 of 10 to `train`, 1 to `dev` and
    2 to `test`. Of every `step` characters one is taken.

    Args:
        step: Leave out characters between.
    """

    def __init__(self, step: int = 7) -> None:
        if step < 1:
            raise InputError(f"`step` must be at least 1, but is {step}; use `data.source.step=7`")
        self.step = step

    KINDS: ClassVar[dict[str, str]] = {"L": "letter", "M": "mark", "N": "number", "P": "punctuation", "S": "symbol"}
    DIRECTIONS: ClassVar[dict[str, str]] = {"L": "right", "R": "left", "AL": "left"}
    SENTENCES: ClassVar[dict[str, str]] = {"kind": "[X] is a [Y] .", "direction": "[X] is written to the [Y] ."}

    def relations(self) -> list[str]:
        """`kind` and `direction`."""
        return list(self.SENTENCES)

    def facts(self, relation: str, split: str) -> list[Fact]:
        """The facts of a part of a relation.

        Args:
            relation: Its name.
            split: `train`, `dev` or `test`.
        """
        facts = []
        for place, code in enumerate(self._codes):
            if SPLITS[(0, 0, 0, 0, 0, 0, 0, 1, 2, 2)[place % 10]] != split:
                continue
            character = chr(code)
            if relation == "kind":
                answer = self.KINDS.get(unicodedata.category(character)[0])
            else:
                answer = self.DIRECTIONS.get(unicodedata.bidirectional(character))
            if answer is not None:
                facts.append(Fact(unicodedata.name(character).lower(), answer))
        return facts

    def sentence(self, relation: str) -> str:
        """A sentence.

        Args:
            relation: Its name.
        """
        return self.SENTENCES[relation]

    def describe(self) -> str:
        """The version of Unicode."""
        return f"names of characters of Unicode {unicodedata.unidata_version}"

    @cached_property
    def _codes(self) -> list[int]:
        # Ideographs and the like are named by their numbers, which says nothing.
        named = (code for code in range(33, sys.maxunicode) if unicodedata.name(chr(code), ""))
        told = [code for code in named if not any(sign.isdigit() for sign in unicodedata.name(chr(code)))]
        telling = [code for code in told if not unicodedata.name(chr(code)).startswith(("HANGUL SYLLABLE", "CJK"))]
        return telling[:: self.step]


def _rows(file: Path, keys: tuple[str, ...], option: str) -> Iterator[dict[str, Any]]:
    """The lines of a file, each an object with these keys."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`{option}` needs the file `{file}`, which cannot be read") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"`{file}` must have a JSON object in every line, but line {number} is none") from error
        for key in keys:
            if not isinstance(row, dict) or not isinstance(row.get(key), str) or not row[key].strip():
                raise InputError(f"`{file}` must have a text `{key}` in every line, but line {number} has none")
        yield row
