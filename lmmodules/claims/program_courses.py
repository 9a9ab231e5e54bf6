"""Drori et al. (2022): whether the programs that were published as solving courses print the answers of these."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmmodules.claims.base import Claim, Measurement
from lmmodules.claims.rules import NotAbove
from lmmodules.errors import InputError
from lmmodules.run_directory import write_json

if TYPE_CHECKING:
    from lmmodules.trial import Trial

PUBLISHED, LAST_LINE, ANYWHERE = "as published", "last line", "any printed number"
COURSES = ("18.01", "18.02", "18.03", "18.05", "18.06", "6.042", "COMS3251", "MATH")
"""Stems of the files, as far as they are there."""
TABLE = "Programs that were published as automatic, by course"
CAUSES = "Why they do not print the published answer as their last line"
DISAGREEMENTS = "Every one that does not"


@dataclass(frozen=True)
class Courses(Claim):
    """Runs every published program in the sandbox and grades what it prints; nothing is trained."""

    def measure(self, trial: Trial) -> Measurement:
        """Run and grade all programs, once in each seed: those that draw at random print something else each time.

        Args:
            trial: Of the seed; what was graded is kept in its directory.
        """
        kept = trial.directory / "courses.json"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, dataclasses.asdict(grade_courses(Path(os.environ["LMM_MATH_COURSES"]))))
        return Measurement(**json.loads(kept.read_text()))


def grade_courses(directory: Path) -> Measurement:
    """Run and grade the programs of every course in a directory.

    Args:
        directory: With a CSV file for each course.

    Raises:
        InputError: When there is no course, or programs cannot be isolated here.
    """
    from lmmodules.data.math_courses import read_course
    from lmmodules.evaluation.course_programs import causes, disagreements, grade, table

    files = [file for course in COURSES if (file := directory / f"{course}.csv").is_file()]
    if not files:
        raise InputError(
            f"`LMM_MATH_COURSES` must name a directory with files such as `18.01.csv`, but `{directory}` has none"
        )
    graded = grade([question for file in files for question in read_course(file)])
    rows = table(graded)
    tables: dict[str, list[Mapping[str, Any]]] = {
        TABLE: [*rows],
        CAUSES: [{"cause": cause, "programs": number} for cause, number in causes(graded).items()],
        DISAGREEMENTS: [*disagreements(graded)],
    }
    return Measurement(shares(rows), tables=tables)


def shares(rows: Sequence[Mapping[str, str | int]]) -> dict[str, float]:
    """Shares of the automatic programs whose published answer a machine can judge.

    Args:
        rows: Of `course_programs.table`, the last of them over all courses.
    """
    figures = {PUBLISHED: 1.0}
    for row in [rows[-1], *(rows[:-1] if len(rows) > 1 else [])]:
        judged = int(row["readable"])
        name = "" if row is rows[-1] else f"{row['course']}, "
        if judged:
            figures[f"{name}{LAST_LINE}"] = int(row["correct"]) / judged
            figures[f"{name}{ANYWHERE}"] = int(row["anywhere"]) / judged
    return figures


PUBLISHED_PROGRAMS = Courses(
    paper="program_synthesis",
    name="courses",
    statement=(
        "Run again and judged by a machine, nearly all programs that were published as solving a question by "
        "themselves print the published answer."
    ),
    source="Drori et al. 2022; programs, answers and labels are those of `code/csv` in the repository idrori/mathQ",
    reported="81 % of the questions are solved automatically, as people judged.",
    arms={},
    rules=(NotAbove(PUBLISHED, LAST_LINE, tolerance=0.05), NotAbove(PUBLISHED, ANYWHERE, tolerance=0.05)),
    sizes={"cpu": (), "gpu": ()},
    remarks=(
        "A measurement of the published programs, not a reproduction of the published rate: no language model is asked "
        "anything. Every program runs in the sandbox, alone and as it was published, for up to 60 seconds. Its last "
        "line is compared with the published answer, or all that it printed where several are published one below the "
        "other; numbers may differ by 1e-3 of it. Figures are shares of the "
        "programs that were published as automatic and whose published answer is mathematics and not prose or a "
        "picture, so that `as published` is 1. Nothing was tuned to them. Programs that draw at random print something "
        "else in every seed; the tables are those of the first."
    ),
    unit="share of judged programs that print the published answer",
    needs=("LMM_MATH_COURSES",),
)

CLAIMS = (PUBLISHED_PROGRAMS,)
