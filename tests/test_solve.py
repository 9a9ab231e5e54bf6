"""`lmm-solve`: what it prints, what it leaves, and what it says of wrong inputs."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from omegaconf import DictConfig

import lmmodules
import lmmodules.synthesis
from lmmodules.composition import compose_config
from lmmodules.data.math_courses import COLUMNS
from lmmodules.errors import InputError
from lmmodules.evaluation import course_programs
from lmmodules.evaluation.sandbox import Execution
from lmmodules.solve import solve
from lmmodules.synthesis import Decoding

Command = Callable[..., "subprocess.CompletedProcess[str]"]

COURSE = [
    ("What is 1 plus 1?", "print(1 + 1)", "2"),
    ("What is 2 plus 2?", "print(2 + 2)", "4"),
    ("What is 3 plus 3?", "print(7)", "6"),
    ("Draw the line x plus 4.", "plt.plot(x)", "A graph of the line"),
]


class Parrot:
    """A model that answers the first question of a course, and others where a program is shown."""

    name = "parrot"
    prompt_style = "docstring"
    batch_size = 2
    asked: list[str] = []  # noqa: RUF012

    def __init__(self, **unused: object) -> None:
        Parrot.asked = []

    def fits(self, prompt: str, decoding: Decoding) -> bool:
        return True

    def complete(self, prompts: Sequence[str], decoding: Decoding) -> list[str]:
        Parrot.asked += prompts
        return [self._write(prompt) for prompt in prompts]

    def _write(self, prompt: str) -> str:
        if prompt.endswith("1."):
            return " It adds.\n2. It prints."
        if prompt.endswith("."):
            return " What is 9 plus 9?\n8. x"
        if prompt.count("print(") and "3 plus 3" in prompt.rpartition("question:")[2]:
            return "print(6)"
        return "print(2)"


@pytest.fixture
def course(tmp_path: Path) -> Path:
    file = tmp_path / "7.01.csv"
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(COLUMNS)
        for number, (question, program, answer) in enumerate(COURSE, start=1):
            writer.writerow([number, question, "", program, answer, "Automatic zero-shot"])
    return file


@pytest.fixture
def asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., DictConfig]:
    """The configuration of the command with a model that says always the same, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setattr(lmmodules.synthesis, "CheckpointClient", Parrot)
    return lambda *overrides: compose_config("solve", "checkpoint=x", *overrides)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, in single spaces and without frames."""
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_one_question(asked, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    figures = solve(asked("question='What is 1 plus 1?'", "answer=2"))
    assert (figures["solved"], figures["questions"]) == (1, 1)
    text = said(capsys)
    for part in (
        "what the model was given",
        "write a program that answers the following question: What is 1 plus 1?",
        "the program it wrote",
        "print(2)",
        "what that printed",
        "verdict correct: the same text",
        "model parrot",
    ):
        assert part in text
    assert f"protection {figures['protection']}: " in text
    assert not list(tmp_path.iterdir())  # one question leaves nothing behind


def test_a_question_without_an_answer_is_not_judged(asked, capsys: pytest.CaptureFixture[str]) -> None:
    figures = solve(asked("question='What is 1 plus 1?'"))
    assert (figures["solved"], figures["needs_human"]) == (0, 1)
    assert "answer 2 verdict needs human: no answer is known to compare with" in said(capsys)


def test_a_course(asked, course: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    figures = solve(asked(f"course={course}"))
    # The first by itself, the third with its program shown; the fourth is a picture.
    assert [one["verdict"] for one in figures["solutions"]] == ["correct", "wrong", "correct", "needs_human"]
    assert (figures["zero_shot"], figures["solved"], figures["rate"]) == (1, 2, 0.5)
    assert figures["rate_gradable"] == pytest.approx(2 / 3)
    text = said(capsys)
    assert "7.01/3 correct 6 6 with 1 example" in text
    assert "7.01/2 wrong 2 4 differs" in text or "7.01/2 wrong 2 4 two different whole numbers" in text
    assert "7.01 4 3 1 2 50.0% 66.7%" in text
    assert "verdicts 2 correct, 1 wrong, 1 needs human" in text
    assert json.loads((tmp_path / "runs/solve/solved.json").read_text()) == figures
    assert len((tmp_path / "runs/solve/attempts.jsonl").read_text().splitlines()) == 7
    solve(asked(f"course={course}"))
    assert not Parrot.asked  # the journal answers


def test_published_examples_are_those_that_run_to_their_answer(asked, course: Path) -> None:
    figures = solve(asked(f"course={course}", "examples=published", "max_questions=3"))
    third = figures["solutions"][2]
    assert third["verdict"] == "correct"
    assert sorted(third["examples"]) == ["7.01/1", "7.01/2"]  # each once, though the first was solved as well
    assert not [prompt for prompt in Parrot.asked if "print(7)" in prompt]
    alone = solve(asked("question='What is 3 plus 3?'", "answer=6", f"course={course}", "examples=published"))
    assert alone["solutions"][0]["verdict"] == "correct"


def test_a_resumed_evaluation_with_published_examples_asks_nothing(
    asked, course: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    figures = solve(asked(f"course={course}", "examples=published"))
    assert Parrot.asked
    # As a program that draws at random would, each runs to something else now.
    failed = Execution("failed", "", "", 0.0)
    monkeypatch.setattr(course_programs, "run_programs", lambda programs, *_, **__: [failed for _ in programs])
    assert solve(asked(f"course={course}", "examples=published")) == figures
    assert not Parrot.asked
    lines = [json.loads(line) for line in (tmp_path / "runs/solve/attempts.jsonl").read_text().splitlines()]
    found = {line["question"]: line["verified"] for line in lines if line["stage"] == "verification"}
    assert found == {"7.01/1": True, "7.01/2": True, "7.01/3": False, "7.01/4": False}
    solve(asked(f"course={course}", "examples=published", "evaluation.limits.seconds=9"))
    assert Parrot.asked  # the limits are others, under which none runs to its answer


@pytest.mark.parametrize(
    ("overrides", "prompts"),
    [([], 7), (["few_shot=0"], 4), (["few_shot=[1,2]"], 7), (["method=direct"], 4), (["max_questions=1"], 1)],
)
def test_what_is_asked(overrides: list[str], prompts: int, asked, course: Path) -> None:
    solve(asked(f"course={course}", *overrides))
    assert len(Parrot.asked) == prompts


def test_options_reach_the_prompt(asked, course: Path) -> None:
    solve(asked("question='What is 1 plus 1?'", "context=using sympy", "prompt_style=comment"))
    assert Parrot.asked == ["# write a program that answers the following question: using sympy What is 1 plus 1?\n"]


def test_an_explanation(asked, capsys: pytest.CaptureFixture[str]) -> None:
    figures = solve(asked("question='What is 1 plus 1?'", "explain=true"))
    assert figures["solutions"][0]["explanation"] == ["It adds.", "It prints."]
    assert "1. It adds. 2. It prints." in said(capsys)


def test_tolerance(asked, course: Path) -> None:
    question = ("question='What is 1 plus 1?'", "answer=2.001")
    assert solve(asked(*question))["wrong"] == 1
    assert solve(asked(*question, "evaluation.tolerance=1e-2"))["correct"] == 1
    assert solve(asked(*question, f"course={course}"))["correct"] == 1  # answers of courses are rounded


def test_fresh_questions(asked) -> None:
    figures = solve(asked("generated=3", "subjects=[number_theory,counting]", "few_shot=0"))
    assert figures["questions"] == figures["gradable"] == 3
    assert {row["course"] for row in figures["by_course"]} <= {"number_theory", "counting", "all"}
    first = list(Parrot.asked)
    solve(asked("generated=3", "subjects=[number_theory,counting]", "few_shot=0", "seed=1", "output=other"))
    assert Parrot.asked != first


def test_new_questions(asked, course: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    figures = solve(asked(f"course={course}", "new_questions=2"))
    made = figures["new_questions"]["7.01"]
    assert [one["text"] for one in made] == ["What is 9 plus 9?"] * 2
    assert [one["duplicate"] for one in made] == [False, True]
    assert "novelty" in said(capsys)
    assert json.loads((tmp_path / "runs/solve/new_questions.json").read_text()) == figures


def test_clusters(course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    figures = solve(compose_config("solve", f"course={course}", "clusters=true"))  # which needs no model
    assert (tmp_path / "runs/solve/clusters.png").read_bytes().startswith(b"\x89PNG")
    assert figures["neighbour_of_the_course"] == 1


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "`question` is missing: give it on the command line, as `question=...`, or questions of a course"),
        (["question=''"], "`question` must be a question in words, but is empty"),
        (["question=x", "generated=2"], "`question` asks one question and `generated` makes others"),
        (["generated=2", "answer=2"], "`answer` is that of `question`, which is missing"),
        (["generated=0"], "`generated` must be a whole number, at least 1, but is 0; use `generated=20`"),
        (["generated=2", "subjects=[cooking]"], "must be among calculus"),
        (["course=nowhere.csv"], "`path` must be a file of a course, but `nowhere.csv` does not exist"),
        (["question=x", "method=magic"], "`method` must be one of"),
        (["question=x", "order=any"], "`order` must be one of"),
        (["question=x", "examples=any"], "`examples` must be own or published"),
        (["question=x", "examples=published"], "`examples=published` are the programs of a course"),
        (["question=x", "evaluation.protection=walls"], "`protection` must be one of"),
        (["question=x", "evaluation.limits.seconds=0"], "`seconds` must be positive"),
        (["generated=2", "course=7.01.csv"], "`generated` makes questions and `course` reads others"),
        (["question=x", "evaluation.workers=0"], "`evaluation.workers` must be a whole number, at least 1, but is 0"),
        (["question=x", "evaluation.workers=x"], "`evaluation.workers` must be a whole number, at least 1, but is x"),
        (["question=x", "few_shot=-1"], "`few_shot` must be a whole number of examples, at least 1, but is -1"),
        (["question=x", "few_shot=abc"], "`few_shot` must be a whole number of examples, at least 1, but is abc"),
        (["question=x", "few_shot=[2,a]"], "`few_shot` must be a whole number of examples, at least 1, but is a"),
        (["question=x", "max_new_tokens=0"], "`max_new_tokens` must be a whole number, at least 1, but is 0"),
        (["question=x", "max_new_tokens=abc"], "`max_new_tokens` must be a whole number, at least 1, but is abc"),
        (["question=x", "temperature=abc"], "`temperature` must be a number, at least 0, but is abc"),
        (["question=x", "temperature=nan"], "`temperature` must be a number, at least 0, but is nan"),
        (["question=x", "top_p=abc"], "`top_p` must be above 0 and at most 1, but is abc"),
        (["question=x", "seed=abc"], "`seed` must be a whole number, at least 0, but is abc; use `seed=0`"),
        (["generated=2", "seed=abc"], "`seed` must be a whole number, at least 0, but is abc"),
        (["question=x", "evaluation.tolerance=abc"], "`evaluation.tolerance` must be a number, at least 0, but is abc"),
        (["question=x", "evaluation.limits.seconds=abc"], "`seconds` must be positive, but is abc"),
        (["question=x", "output=/proc/nope"], "`output` must be a directory that can be made, but `/proc/nope` cannot"),
        (["generated=3", "clusters=true", "output=/proc/nope"], "`output` must be a directory that can be made"),
        (["generated=3", "new_questions=2", "output=/proc/nope"], "`output` must be a directory that can be made"),
        (["question=x", "new_questions=0"], "`new_questions` must be a whole number"),
        (["question=x", "clusters=true"], "`clusters` needs at least 3 questions"),
    ],
)
def test_refusals(overrides: list[str], sentence: str, asked) -> None:
    from lmmodules.composition import wrong_input_raised

    with pytest.raises(InputError) as caught, wrong_input_raised():
        solve(asked(*overrides))
    assert sentence in str(caught.value)


def test_a_course_without_a_column(asked, course: Path) -> None:
    course.write_text(course.read_text().replace("Codex Code", "Code"))
    with pytest.raises(InputError, match=r"must have the columns .*, but lacks `Codex Code`"):
        solve(asked(f"course={course}"))


def test_a_checkpoint_must_be_named() -> None:
    with pytest.raises(InputError, match=r"`checkpoint` is missing: give it on the command line, as `checkpoint=...`"):
        solve(compose_config("solve", "question=x"))


def test_with_a_real_checkpoint(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shape = [*tiny, "max_steps=2", "callbacks.progress=null"]
    lmmodules.compose(*shape, directory=str(run)).fit()
    figures = solve(compose_config("solve", f"checkpoint={run}", "question='the cat?'", "max_new_tokens=8"))
    assert figures["solved"] == 0
    assert figures["model"].startswith("checkpoint ")
    assert "what the model was given" in said(capsys)


@pytest.mark.slow
def test_the_command(command: Command, course: Path) -> None:
    shown = command("solve", "--help")
    assert shown.returncode == 0
    assert "lmm-solve checkpoint=runs/my_run question=" in shown.stdout
    wrong = command("solve")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("lmm-solve: `question` is missing")
    down = (
        "language_model=endpoint",
        "language_model.url=http://127.0.0.1:9/v1",
        "language_model.model=m",
        "language_model.attempts=2",
        "language_model.wait_seconds=0.01",
    )
    refused = command("solve", *down, f"course={course}")
    assert refused.returncode == 2
    assert "gave no completion in 2 attempts" in refused.stderr
    assert "Traceback" not in refused.stderr
