"""Questions of mathematics courses with the programs that were published for them."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from lmmodules.errors import InputError

COLUMNS = ("Id", "Original Problem", "Codex Input", "Codex Code", "Solution", "Solution Type")
"""What a file must have; further columns may stand between them in any order."""


@dataclass(frozen=True)
class CourseQuestion:
    """A question of a course.

    Attributes:
        course: Stem of its file, for example `18.06`.
        number: Of the question within the course.
        topic: As published; empty where none is.
        question: As it stands in the course.
        codex_input: What was put to the language model, where it differs; else the question.
        program: What the language model wrote.
        answer: The published answer: a number, an expression, or prose.
        solution_type: `zero_shot`, `few_shot` or `manual`: how the program was come by, as published.
        judged_correct: Whether the output was published as correct.
    """

    course: str
    number: int
    topic: str
    question: str
    codex_input: str
    program: str
    answer: str
    solution_type: str
    judged_correct: bool

    @property
    def automatic(self) -> bool:
        """Whether the program was written without a hand in it, as published."""
        return self.solution_type != "manual"


def read_course(path: str | os.PathLike[str]) -> list[CourseQuestion]:
    """Read the questions of one course.

    Args:
        path: A CSV file with `COLUMNS`.

    Raises:
        InputError: When the file is not there, not readable, or lacks a column.

    Source:
        The format of `code/csv` in the repository idrori/mathQ.
    """
    file = Path(path).expanduser()
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except FileNotFoundError as error:
        raise InputError(f"`path` must be a file of a course, but `{file}` does not exist") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"`{file}` cannot be read as a course: {error}") from error
    if not rows:
        raise InputError(f"`{file}` must have at least one question, but has none")
    missing = [column for column in COLUMNS if column not in rows[0]]
    if missing:
        raise InputError(f"`{file}` must have the columns {', '.join(COLUMNS)}, but lacks `{missing[0]}`")
    return [_question(file, line, row) for line, row in enumerate(rows, start=2)]


def _question(file: Path, line: int, row: dict[str, str | None]) -> CourseQuestion:
    text = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
    try:
        number = int(text["Id"])
    except ValueError as error:
        raise InputError(f"`Id` must be a whole number, but is {text['Id']!r} in row {line} of `{file}`") from error
    codex_input = text["Codex Input"]
    untouched = codex_input.lower() in ("", "same as original question", "original problem")
    return CourseQuestion(
        course=file.stem,
        number=number,
        topic=text.get("Topic", ""),
        question=text["Original Problem"],
        codex_input=text["Original Problem"] if untouched else codex_input,
        program=(row["Codex Code"] or "").rstrip(),
        answer=text["Solution"],
        solution_type=_solution_type(text["Solution Type"], file, line),
        judged_correct=text.get("Output Evaluation", "").lower().startswith("correct"),
    )


def _solution_type(text: str, file: Path, line: int) -> str:
    """One of three, out of many spellings."""
    for word, kind in (("zero", "zero_shot"), ("few", "few_shot"), ("manual", "manual")):
        if word in text.lower():
            return kind
    raise InputError(
        f"`Solution Type` must name zero-shot, few-shot or manual, but is {text!r} in row {line} of `{file}`"
    )
