"""SuperGLUE as patterns: the sentence that a row becomes, and the words that say its classes.

Source:
    `PT-Fewshot/data_utils/task_pvps.py` of THUDM/P-tuning.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from lmmodules.errors import InputError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """A row, made ready.

    Args:
        fields: What its template names.
        label: Its class, as in the file; `None` where there is none.
        answers: Texts to choose between, where there are no words for classes.
        group: The line, and in it the question that it belongs to.
    """

    fields: Mapping[str, str]
    label: str | None
    answers: tuple[str, ...] = ()
    group: tuple[int, ...] = ()


class Pattern(ABC):
    """A task: its template, its verbalizer, and how a line of its file becomes examples."""

    template: ClassVar[str]
    verbalizer: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Words by class, in the order of the classes; empty where texts are chosen between."""

    @abstractmethod
    def examples(self, row: Row) -> Iterator[Example]:
        """The examples of a line.

        Args:
            row: Its object.
        """


class RTE(Pattern):
    """Does the premise entail the hypothesis?"""

    template = "{premise|shorten} Question: {hypothesis|shorten}? {prompt} Answer: {target}."
    verbalizer = MappingProxyType({"not_entailment": "No", "entailment": "Yes"})

    def examples(self, row: Row) -> Iterator[Example]:
        """One.

        Args:
            row: Its object.
        """
        fields = {"premise": row["premise"], "hypothesis": row["hypothesis"].rstrip(".,;:!? ")}
        yield Example(fields, _label(row))


class CB(Pattern):
    """Does the writer believe the hypothesis?"""

    template = "{premise|shorten}{sep}{hypothesis|shorten}? {prompt} answer: {target}"
    verbalizer = MappingProxyType({"contradiction": "No", "entailment": "Yes", "neutral": "Maybe"})

    def examples(self, row: Row) -> Iterator[Example]:
        """One.

        Args:
            row: Its object.
        """
        yield Example({"premise": row["premise"], "hypothesis": row["hypothesis"]}, _label(row))


class BoolQ(Pattern):
    """Is it so, by the passage?"""

    template = "{passage|shorten}. {prompt} Question: {question|shorten}? Answer: {target}."
    verbalizer = MappingProxyType({"false": "No", "true": "Yes"})

    def examples(self, row: Row) -> Iterator[Example]:
        """One.

        Args:
            row: Its object.
        """
        yield Example({"passage": row["passage"], "question": row["question"]}, _label(row))


class WiC(Pattern):
    """Does the word mean the same in both sentences?"""

    template = "{sentence1|shorten}{sep}{sentence2|shorten} {prompt}*{word} *? {target}"
    verbalizer = MappingProxyType({"false": "No", "true": "Yes"})

    def examples(self, row: Row) -> Iterator[Example]:
        """One.

        Args:
            row: Its object.
        """
        fields = {name: row[name] for name in ("sentence1", "sentence2", "word")}
        yield Example(fields, _label(row))


class MultiRC(Pattern):
    """Is this an answer to the question, by the passage? One example for each answer of each question."""

    template = "{passage|shorten}. Question: {question} Is it {answer}? {prompt} {target}."
    verbalizer = MappingProxyType({"0": "No", "1": "Yes"})

    def examples(self, row: Row) -> Iterator[Example]:
        """One for each answer.

        Args:
            row: Its object.
        """
        passage = row["passage"]
        for place, question in enumerate(passage["questions"]):
            for answer in question["answers"]:
                fields = {"passage": passage["text"], "question": question["question"], "answer": answer["text"]}
                yield Example(fields, _label(answer), group=(place,))


class COPA(Pattern):
    """Which of two is the cause, or the effect, of the premise?"""

    template = "{choice1} or {choice2}? {premise|shorten} {joint} {prompt} {target}."

    def examples(self, row: Row) -> Iterator[Example]:
        """One.

        Args:
            row: Its object.
        """
        choices = tuple(_within_sentence(row[name]) for name in ("choice1", "choice2"))
        joint = "because" if row["question"] == "cause" else "so"
        fields = {
            "choice1": choices[0],
            "choice2": choices[1],
            "premise": row["premise"].rstrip(" ."),
            "joint": joint,
        }
        yield Example(fields, _label(row), answers=choices)


class WSC(Pattern):
    """Whom does the pronoun mean? Only rows whose answer is right say it."""

    template = "{prompt} {text|shorten} {prompt} pronoun '*{pronoun}*' refers to {target}."

    def examples(self, row: Row) -> Iterator[Example]:
        """One.

        Args:
            row: Its object.
        """
        target = row["target"]
        words = row["text"].split()
        place = int(target["span2_index"])
        pronoun = target["span2_text"]
        words[place : place + len(pronoun.split())] = [f"*{pronoun}*"]
        yield Example({"text": " ".join(words), "pronoun": pronoun}, _label(row), answers=(target["span1_text"],))


PATTERNS: Mapping[str, Callable[[], Pattern]] = MappingProxyType(
    {"boolq": BoolQ, "cb": CB, "copa": COPA, "multirc": MultiRC, "rte": RTE, "wic": WiC, "wsc": WSC}
)
FOLDERS = MappingProxyType(
    {"boolq": "BoolQ", "cb": "CB", "copa": "COPA", "multirc": "MultiRC", "rte": "RTE", "wic": "WiC", "wsc": "WSC"}
)
"""Names of the tasks' folders, in SuperGLUE and in FewGLUE."""


def read_examples(pattern: Pattern, file: Path) -> list[Example]:
    """All examples of a file.

    Args:
        pattern: Of the task.
        file: Lines of JSON.

    Raises:
        InputError: When it cannot be read, or a line lacks something.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`data.path` must hold the file `{file}`, which cannot be read") from error
    examples: list[Example] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            examples += [replace(one, group=(number, *one.group)) for one in pattern.examples(json.loads(line))]
        except json.JSONDecodeError as error:
            raise InputError(f"`{file}` must have a JSON object in every line, but line {number} is none") from error
        except KeyError as error:
            name = type(pattern).__name__
            raise InputError(f"`{file}` must have {error} in every row of {name}, but line {number} has not") from error
        except (AttributeError, TypeError, ValueError) as error:
            name = type(pattern).__name__
            raise InputError(
                f"`{file}` must have rows as SuperGLUE's {name} has them, but line {number} holds something else"
            ) from error
    return examples


def _label(row: Row) -> str | None:
    label = row.get("label")
    return None if label is None else str(label).lower()


def _within_sentence(text: str) -> str:
    text = text.rstrip(" .!?")
    return text[:1].lower() + text[1:]
