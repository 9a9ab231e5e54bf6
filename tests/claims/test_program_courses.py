"""The claim about published programs: what it counts, and that what was graded is kept."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmmodules.claims.program_courses import (
    ANYWHERE,
    CAUSES,
    DISAGREEMENTS,
    LAST_LINE,
    PUBLISHED,
    PUBLISHED_PROGRAMS,
    TABLE,
    grade_courses,
    shares,
)
from lmmodules.data.math_courses import COLUMNS
from lmmodules.errors import InputError

ROWS = [
    ("print(2)", "2", "Automatic zero-shot"),
    ("print(2, 3)", "2", "Automatic few-shot"),
    ("print(5)", "7", "Automatic zero-shot"),
    ("print(1)", "A picture of it", "Automatic zero-shot"),
    ("print(9)", "9", "Manual"),
]


@pytest.fixture
def courses(tmp_path: Path) -> Path:
    with (tmp_path / "18.01.csv").open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(COLUMNS)
        for number, (program, answer, kind) in enumerate(ROWS, start=1):
            writer.writerow([number, f"Question {number}?", "", program, answer, kind])
    (tmp_path / "solve_rates.csv").write_text("Course,Rate\n18.01,0.9\n")  # which is no course
    return tmp_path


def test_shares_are_of_automatic_programs_with_an_answer_to_judge(courses: Path) -> None:
    measured = grade_courses(courses)
    assert measured.figures == {
        PUBLISHED: 1.0,
        LAST_LINE: pytest.approx(1 / 3),
        ANYWHERE: pytest.approx(2 / 3),
    }
    assert [row["automatic"] for row in measured.tables[TABLE]] == [4]
    assert {row["cause"]: row["programs"] for row in measured.tables[CAUSES]} == {
        "printed, but not as the last line alone": 1,
        "another answer": 1,
        "the published answer is prose or a picture": 1,
    }
    assert [row["question"] for row in measured.tables[DISAGREEMENTS]] == [2, 3, 4]


def test_a_course_without_such_answers_has_no_share() -> None:
    rows = [
        {"course": "a", "readable": 4, "correct": 1, "anywhere": 2},
        {"course": "b", "readable": 0, "correct": 0, "anywhere": 0},
        {"course": "all", "readable": 4, "correct": 1, "anywhere": 2},
    ]
    assert shares(rows) == {
        PUBLISHED: 1.0,
        LAST_LINE: 0.25,
        ANYWHERE: 0.5,
        f"a, {LAST_LINE}": 0.25,
        f"a, {ANYWHERE}": 0.5,
    }


def test_the_rules(courses: Path) -> None:
    figures = grade_courses(courses).figures
    assert not any(rule.judge([figures]).held for rule in PUBLISHED_PROGRAMS.rules)
    whole = {PUBLISHED: 1.0, LAST_LINE: 0.96, ANYWHERE: 1.0}
    assert all(rule.judge([whole]).held for rule in PUBLISHED_PROGRAMS.rules)


def test_what_was_graded_is_kept(courses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMM_MATH_COURSES", str(courses))
    trial = SimpleNamespace(directory=tmp_path / "seed_0")
    first = PUBLISHED_PROGRAMS.measure(trial)
    (courses / "18.01.csv").unlink()
    assert PUBLISHED_PROGRAMS.measure(trial) == first
    assert json.loads((tmp_path / "seed_0" / "courses.json").read_text())["figures"] == first.figures


def test_a_directory_without_courses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`LMM_MATH_COURSES` must name a directory with files such as `18.01.csv`"):
        grade_courses(tmp_path)
