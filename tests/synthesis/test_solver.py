"""The pipeline on a model that says what it is told to say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lmmodules.errors import InputError
from lmmodules.evaluation.sandbox import Limits
from lmmodules.synthesis import Example, Journal, PromptForm, Question, Solver
from lmmodules.synthesis import solver as solver_module
from lmmodules.synthesis.rates import rates, table
from lmmodules.synthesis.verdicts import VERDICTS

ASKED = re.compile(r"What is (\d+) plus \1\?")


def number_asked(prompt: str) -> int:
    return int(ASKED.findall(prompt)[-1])


def shown(prompt: str) -> list[int]:
    return [int(number) for number in ASKED.findall(prompt)[:-1]]


def solves_two_then_one(prompt: str) -> str:
    """1 and 2 by themselves, 3 with two examples, 4 never."""
    n = number_asked(prompt)
    right = n < 3 or (n == 3 and len(shown(prompt)) == 2)
    return f"print({n} + {n if right else n + 1})\n"


def test_zero_shot_then_few_shot(scripted, sums) -> None:
    client = scripted(solves_two_then_one)
    solutions = Solver(client, few_shot=[5])(sums)
    assert [solution.verdict.kind for solution in solutions] == ["correct", "correct", "correct", "wrong"]
    assert [len(solution.attempts) for solution in solutions] == [1, 1, 2, 2]
    again = [prompt for prompt in client.asked if shown(prompt)]
    # Only the unsolved, once each, and what was solved with examples is no example.
    assert [number_asked(prompt) for prompt in again] == [3, 4]
    assert [sorted(shown(prompt)) for prompt in again] == [[1, 2], [1, 2]]
    assert solutions[2].last.examples == tuple(f"sums/{n}" for n in shown(again[0]))
    figures = rates(solutions)
    assert (figures["zero_shot"], figures["solved"], figures["rate"]) == (2, 3, 0.75)


def test_examples_carry_the_program_that_ran(scripted, sums) -> None:
    client = scripted(lambda prompt: solves_two_then_one(prompt) + '\n"""\nwrite something else\n"""\nprint(0)')
    Solver(client, few_shot=[1])(sums[1:])
    prompt = next(prompt for prompt in client.asked if shown(prompt))
    assert '"""\nprint(2 + 2)\n\n"""\n' in prompt
    assert "something else" not in prompt


def test_escalation_stops_when_it_is_solved(scripted, sums) -> None:
    client = scripted(solves_two_then_one)
    solutions = Solver(client, few_shot=[1, 2, 3])(sums)
    # 3 needs two; 4 is tried with one and two, and a third example does not exist, so nothing new would be asked.
    assert [len(solution.attempts) for solution in solutions] == [1, 1, 3, 3]
    assert [(number_asked(p), len(shown(p))) for p in client.asked[4:]] == [(3, 1), (4, 1), (3, 2), (4, 2)]


def test_the_order_of_examples(scripted, sums) -> None:
    first, last = scripted(solves_two_then_one), scripted(solves_two_then_one)
    Solver(first, few_shot=[2])(sums)
    Solver(last, few_shot=[2], order="nearest_last")(sums)
    assert shown(first.asked[-1]) == shown(last.asked[-1])[::-1]


def test_no_examples(scripted, sums) -> None:
    client = scripted(solves_two_then_one)
    Solver(client, few_shot=[])(sums)
    assert len(client.asked) == 4


def test_examples_from_elsewhere(scripted, sums) -> None:
    client = scripted(lambda prompt: "print(6)" if shown(prompt) else "print(0)")
    published = [Example(question, "print('published')") for question in sums]
    solutions = Solver(client, few_shot=[5], examples=published)(sums[2:3])
    assert solutions[0].verdict.correct
    assert sorted(shown(client.asked[-1])) == [1, 2, 4]  # not the question itself, though it is among them
    assert "print('published')" in client.asked[-1]


def test_examples_that_leave_no_room_are_left_out(scripted, sums) -> None:
    client = scripted(solves_two_then_one, room=200)
    solutions = Solver(client, few_shot=[2])(sums)
    assert [len(shown(prompt)) for prompt in client.asked[4:]] == [1, 1]
    assert not solutions[2].verdict.correct
    tiny = Solver(scripted(solves_two_then_one, room=20))(sums[:1])
    assert (tiny[0].verdict.kind, tiny[0].verdict.reason) == (
        "error",
        "the prompt leaves no room in the context of the model",
    )


BAD = {
    "prints nothing": ("x = 1", "no_output", "nothing was printed"),
    "prints two answers": ("print('ANSWER: 2')\nprint('ANSWER: 3')", "wrong", "2 different answers were printed"),
    "hangs": ("while True: pass", "timeout", "ran longer than 2 seconds"),
    "exits with 1": ("print(2)\nraise SystemExit(1)", "error", "exit code 1"),
    "answers in words": ("print('it is two')", "wrong", ""),
    "is no program": ("Let me think about it.", "error", "SyntaxError"),
    "is nothing": ("", "no_output", "no program was written"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_program_that(case: str, scripted, sums) -> None:
    program, kind, reason = BAD[case]
    [solution] = Solver(scripted(lambda prompt: program), few_shot=[], limits=Limits(seconds=2))(sums[:1])
    assert solution.verdict.kind == kind
    assert reason in solution.verdict.reason


def test_nothing_is_asked_twice(scripted, sums, tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    first = Solver(scripted(solves_two_then_one), journal=Journal(path))(sums)
    silent = scripted(lambda prompt: pytest.fail("was asked again"))
    again = Solver(silent, journal=Journal(path))(sums)
    assert [one.verdict for one in again] == [one.verdict for one in first]
    assert [one.last.execution for one in again] == [one.last.execution for one in first]


def test_a_run_that_was_cut_off_goes_on(scripted, sums, tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    Solver(scripted(solves_two_then_one), few_shot=[], journal=Journal(path))(sums)
    path.write_bytes(path.read_bytes()[:-30])
    client = scripted(solves_two_then_one)
    solutions = Solver(client, few_shot=[], journal=Journal(path))(sums)
    assert [number_asked(prompt) for prompt in client.asked] == [4]
    assert [one.verdict.correct for one in solutions] == [True, True, False, False]


def test_programs_run_again_under_other_limits_and_are_judged_by_other_answers(
    scripted, sums, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "attempts.jsonl"
    runs: list[str] = []
    run_programs = solver_module.run_programs
    monkeypatch.setattr(
        solver_module,
        "run_programs",
        lambda programs, *rest, **more: runs.extend(programs) or run_programs(programs, *rest, **more),
    )
    client = scripted(solves_two_then_one)
    Solver(client, few_shot=[], journal=Journal(path))(sums[:1])
    other = [Question("sums/1", sums[0].text, "7", "sums")]
    [solution] = Solver(client, few_shot=[], journal=Journal(path))(other)
    assert solution.verdict.kind == "wrong"
    assert len(runs) == len(client.asked) == 1
    Solver(client, few_shot=[], journal=Journal(path), limits=Limits(seconds=9))(other)
    assert (len(runs), len(client.asked)) == (2, 1)


def test_the_journal_holds_everything(scripted, sums, tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    Solver(scripted(solves_two_then_one), few_shot=[2], journal=Journal(path))(sums)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["zero_shot"] * 4 + ["few_shot"] * 2
    line = lines[-1]
    assert (line["client"], line["question"], line["program"]) == ("scripted", "sums/4", "print(4 + 5)")
    assert (line["execution"]["output"], line["verdict"]["kind"]) == ("9\n", "wrong")
    assert line["execution"]["protection"]


def test_explanations(scripted, sums, tmp_path: Path) -> None:
    def write(prompt: str) -> str:
        return " We add.\n2. We print.\n'''\nmore" if prompt.endswith("1.") else "print(2)"

    client = scripted(write)
    path = tmp_path / "attempts.jsonl"
    [solution] = Solver(client, few_shot=[], explain=True, journal=Journal(path))(sums[:1])
    assert solution.explanation == ("We add.", "We print.")
    assert client.asked[-1].endswith("print(2)\n\n'''\nHere's what the above code is doing:\n1.")
    [again] = Solver(scripted(pytest.fail), few_shot=[], explain=True, journal=Journal(path))(sums[:1])
    assert again.explanation == solution.explanation
    assert not Solver(client, few_shot=[])(sums[:1])[0].explanation


@pytest.mark.parametrize("method", ["direct", "chain_of_thought"])
def test_without_programs(method: str, scripted, sums) -> None:
    client = scripted(
        lambda prompt: f"Let us see.\nThe answer is {2 * number_asked(prompt) + (number_asked(prompt) > 2)}"
    )
    solver = Solver(client, PromptForm(method))
    solutions = solver(sums)
    assert [solution.verdict.correct for solution in solutions] == [True, True, False, False]
    assert len(client.asked) == 4  # examples are programs
    assert solver.protection is None
    assert all(solution.last.execution is None for solution in solutions)


def test_rates_of_all_and_of_what_a_machine_can_judge(scripted) -> None:
    questions = [
        Question("a/1", "What is 1 plus 1?", "2", "a"),
        Question("a/2", "What is 2 plus 2?", "It is a picture of four", "a"),
        Question("b/1", "What is 3 plus 3?", "6", "b"),
        Question("b/2", "What is 4 plus 4?", "9", "b"),
    ]
    solutions = Solver(scripted(lambda prompt: f"print({2 * number_asked(prompt)})"), few_shot=[])(questions)
    rows = table(solutions)
    assert [(row["course"], row["questions"], row["gradable"], row["solved"]) for row in rows] == [
        ("a", 2, 1, 1),
        ("b", 2, 2, 1),
        ("all", 4, 3, 2),
    ]
    assert (rows[-1]["rate"], rows[-1]["rate_gradable"]) == (0.5, pytest.approx(2 / 3))
    assert (rows[-1]["needs_human"], rows[-1]["wrong"]) == (1, 1)
    assert sum(int(rows[-1][kind]) for kind in VERDICTS) == 4


def test_two_questions_of_one_text_are_asked_once(scripted, sums) -> None:
    client = scripted(solves_two_then_one)
    twins = [sums[0], Question("twin", sums[0].text, "3", "sums")]
    assert [one.verdict.correct for one in Solver(client, few_shot=[])(twins)] == [True, False]
    assert len(client.asked) == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"few_shot": [0]}, "`few_shot` must be a whole number of examples, at least 1, but is 0; use `few_shot=0`"),
        ({"tolerance": -1.0}, "`evaluation.tolerance` must be a number, at least 0, but is -1.0"),
        ({"order": "random"}, "`order` must be one of"),
        ({"protection": "walls"}, "`protection` must be one of"),
        ({"explain": True, "form": PromptForm("direct")}, "`explain` needs programs, but `method` is direct"),
    ],
)
def test_refusals(options, sentence: str, scripted, sums) -> None:
    client = scripted(pytest.fail)
    with pytest.raises(InputError, match=sentence):
        Solver(client, **options)(sums if "order" not in options else [])


def test_keys_must_differ(scripted, sums) -> None:
    with pytest.raises(InputError, match="two have `sums/1`"):
        Solver(scripted(pytest.fail))([sums[0], sums[0]])
