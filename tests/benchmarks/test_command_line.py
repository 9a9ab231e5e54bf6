"""What one types, and what is refused."""

from __future__ import annotations

import os

import pytest

from benchmarks.__main__ import main
from benchmarks.workload import choose, summaries


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # The command sets these before it imports torch; other tests have set their own.
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_WAIT_POLICY", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "1" if name.endswith("THREADS") else "")


def test_list_names_every_workload(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in summaries())
    assert {"masked_lm_step", "causal_lm_step", "masking", "tokenising", "generation"} <= set(summaries())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no_such"], "`workload` must be one of alibi_attention, "),
        (["masking", "--dropout", "0.1"], "`masking` has `--vocab`, but was given `--dropout`; leave it out"),
        (["trainer_overhead", "--vocab", "9"], "`trainer_overhead` has no axes, but was given `--vocab`"),
        (["masking", "--rounds", "3"], "`--rounds` must be at least 5, for a spread that means something, but is 3"),
        (["masking", "--quick", "--store"], "leave one of them out"),
        (["masking", "--threads", "0"], "`--threads` must be at least 1, but is 0"),
    ],
)
def test_a_wrong_input_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert told.startswith("python -m benchmarks: ")
    assert sentence in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("name", summaries())
def test_cases_have_names_of_their_own_and_compare_what_they_have(name: str) -> None:
    cases = choose(name).cases()
    assert len({case.name for case in cases}) == len(cases) > 0
    for case in cases:
        names = [candidate.name for candidate in case.candidates]
        assert len(set(names)) == len(names)
        assert case.comparisons
        for comparison in case.comparisons:
            assert {comparison.ours, comparison.peer, comparison.beyond or comparison.peer} <= set(names)
            assert (comparison.floor or 0.0) <= (comparison.goal or float("inf"))


def test_axes_are_what_the_command_line_says() -> None:
    cases = choose("masked_lm_step", {"vocab": [300], "dropout": [0.0, 0.2]}).cases()
    assert [case.name for case in cases] == ["vocabulary 300, dropout 0", "vocabulary 300, dropout 0.2"]
    assert all(comparison.goal is None for case in cases for comparison in case.comparisons)
    with_goal = choose("masked_lm_step").case("vocabulary 8,192, dropout 0.1").comparisons[0]
    assert (with_goal.goal, with_goal.floor) == (1.8, 1.55)


@pytest.mark.parametrize(("arguments", "policy"), [([], None), (["--idle", "asleep"], "PASSIVE")])
def test_idle_threads_wait_as_asked(arguments: list[str], policy: str | None) -> None:
    os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
    main(["--list", *arguments])
    assert os.environ.get("OMP_WAIT_POLICY") == policy
