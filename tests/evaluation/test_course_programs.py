"""Programs of a course written for this test, run and graded."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from lmmodules.data.math_courses import COLUMNS, CourseQuestion, read_course
from lmmodules.errors import InputError
from lmmodules.evaluation import course_programs
from lmmodules.evaluation.course_programs import causes, disagreements, grade, table, verify
from lmmodules.evaluation.protection import works
from lmmodules.evaluation.sandbox import Execution, Limits

# (program, answer, type, what is found)
ROWS = [
    ("print(6 * 7)", "42", "Automatic Zero-shot", ""),
    ("print('v =', [1, 2])", "(1, 2)", "Automatic Few Shot (5)", ""),
    ("x = 6 * 7", "42", "Automatic Zero Shot", "nothing was printed"),
    ("print('ANSWER: 1')\nprint('ANSWER: 2')", "2", "Automatic Zero-shot", "2 different answers were printed"),
    ("while True: pass", "2", "Automatic Zero-shot", "ran longer than 4 seconds"),
    ("print(2)\nraise SystemExit(1)", "2", "Automatic Zero-shot", "exit code 1"),
    ("print(3)", "2", "Automatic Zero-shot", "another answer"),
    ("print('three')", "3", "Automatic Zero-shot", "another answer"),
    ("print(sqrt(4))", "2", "Automatic Few-shot", "missing import"),
    ("print 2", "2", "Automatic Zero-shot", "not Python 3"),
    ("print(input())", "2", "Automatic Zero-shot", "asks for input"),
    ("import random\nprint(random.random())", "0.5", "Automatic Zero-shot", "randomness"),
    ("# plt.show()", "Graph", "Automatic Zero-shot", "a picture"),
    ("print(2)", "It is the number of two", "Automatic Zero-shot", "the published answer is prose or a picture"),
    ("print(2, 3)", "2", "Automatic Zero-shot", "printed, but not as the last line alone"),
    ("print(5)", "4", "Manual", "another answer"),
]
MATRICES = "print('P =')\nprint('[[0. 1.]\\n [1. -0.]]')\nprint([2, 3])"
MORE = [
    (MATRICES, "P = \n [[0. 1.]\n [1. 0.]]\n[2, 3]", ""),
    (MATRICES, "P = \n [[0. 1.]\n [1. 0.]]\n[2, 4]", "another answer"),
    (MATRICES, "P = \n [[0. 1.]\n [1. 0.]]", "another answer"),
    ("import random\nrandom.seed(0)\nprint('p:', 0.3311)", "0.333333333", "randomness"),
    ("import random\nrandom.seed(0)\nprint('p:', 0.21)", "0.333333333", "another answer"),
    ("print('1/12')", "12-Jan", "the published answer is a fraction that a spreadsheet made a date"),
    ("print('2*atan(x)')", r"2\arctan{x} + C", "without the constant of integration"),
    ("print([1, 2])", "[1,0;0,1]*[1,2;3,4]*[0,1;1,1]", "the published answer is of a form that is not read"),
    ("print(9.92)", "9.92 mg", "the published answer is of a form that is not read"),
    ("print([1, 2])", "A =[1;2]\nand B =\n[2;1]", "the published answer is prose or a picture"),
    ("print(1)", "Converges", "the published answer is prose or a picture"),
    ("import nothing_like_it", "1", "fails with ModuleNotFoundError"),
]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> list[CourseQuestion]:
    rows = [
        {
            "Id": str(number),
            "Original Problem": f"Question {number}?",
            "Codex Input": "Same as original question" if number % 2 else f"Write a program for {number}",
            "Codex Code": program,
            "Solution": answer,
            "Solution Type": kind,
            "Output Evaluation": "Correct",
        }
        for number, (program, answer, kind, _) in enumerate(ROWS, start=1)
    ]
    return read_course(write(tmp_path_factory.mktemp("course") / "7.01.csv", rows))


def test_reading(course: list[CourseQuestion]) -> None:
    assert [question.solution_type for question in course[:3]] == ["zero_shot", "few_shot", "zero_shot"]
    assert (course[0].course, course[0].number, course[0].codex_input) == ("7.01", 1, "Question 1?")
    assert course[1].codex_input == "Write a program for 2"
    assert course[0].judged_correct
    assert (course[-1].automatic, course[0].automatic) == (False, True)


def test_grading(course: list[CourseQuestion]) -> None:
    if not works("bubblewrap") and not works("namespaces"):
        pytest.skip("programs cannot be isolated here")
    graded = grade(course, Limits(seconds=4), workers=4)
    assert [one.cause for one in graded] == [cause for *_, cause in ROWS]
    (row,) = table(graded)
    assert row == {
        "course": "7.01",
        "questions": 16,
        "zero_shot": 13,
        "automatic": 15,
        "finished": 10,
        "printed": 8,
        "readable": 13,
        "correct": 2,
        "anywhere": 5,
    }
    listed = disagreements(graded)
    assert len(listed) == 13 == sum(causes(graded).values())
    assert {entry["question"] for entry in listed} == set(range(3, 16))


def questions_of(rows: list[tuple[str, str]]) -> list[CourseQuestion]:
    return [
        CourseQuestion("7.02", number, "", "?", "?", program, answer, "zero_shot", True)
        for number, (program, answer) in enumerate(rows, start=1)
    ]


def test_causes_of_further_kinds() -> None:
    if not works("bubblewrap") and not works("namespaces"):
        pytest.skip("programs cannot be isolated here")
    graded = grade(questions_of([(program, answer) for program, answer, _ in MORE]), Limits(seconds=30), workers=4)
    assert [one.cause for one in graded] == [cause for *_, cause in MORE]
    assert [one.readable for one in graded] == [True] * 5 + [False, True] + [False] * 4 + [True]


@pytest.mark.parametrize("task", [grade, verify])
def test_a_package_that_is_not_here_is_no_fault_of_a_program(task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setattr(course_programs, "run_programs", lambda *_, **__: pytest.fail("nothing may run"))
    programs = [("print(1)", "1"), ("x = 1\nfrom scipy.linalg import lu\nprint(1)", "1")]
    with pytest.raises(InputError, match=r"running published programs needs `scipy`: pip install 'lmmodules\[solve\]'"):
        task(questions_of(programs))


def test_luck_keeps_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is right each time, one only at first, and one each time by another number within the tolerance."""
    printed = {"steady": ["2"] * 3, "lucky": ["2", "3", "2"], "near": ["2.0001", "1.9999", "2.0002"]}
    turns = {name: iter(answers) for name, answers in printed.items()}

    def scripted(programs: list[str], *_, **__) -> list[Execution]:
        return [Execution("finished", next(turns[program]), "", 0.0) for program in programs]

    monkeypatch.setattr(course_programs, "run_programs", scripted)
    assert [one.program for one in verify(questions_of([(name, "2") for name in printed]))] == ["steady"]


def test_only_what_runs_to_its_answer_is_kept(course: list[CourseQuestion]) -> None:
    if not works("bubblewrap") and not works("namespaces"):
        pytest.skip("programs cannot be isolated here")
    kept = verify([*course[:4], course[6], course[-1]], Limits(seconds=30))
    assert [question.number for question in kept] == [1, 2]


GOOD = dict.fromkeys(COLUMNS, "1") | {"Solution Type": "Manual"}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({name: value for name, value in GOOD.items() if name != "Solution"}, "lacks `Solution`"),
        (GOOD | {"Id": "one"}, "`Id` must be a whole number, but is 'one' in row 2"),
        (GOOD | {"Solution Type": "perhaps"}, "`Solution Type` must name zero-shot, few-shot or manual"),
    ],
)
def test_bad_files(tmp_path: Path, row: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        read_course(write(tmp_path / "course.csv", [row]))
    assert sentence in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_course(tmp_path / "none.csv")
