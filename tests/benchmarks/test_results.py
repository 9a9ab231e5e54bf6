"""What is stored, and the page that is made from it."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import growth
from benchmarks.results import (
    CandidateResult,
    CaseResult,
    WorkloadResult,
    decisive_clock,
    environment,
    load_all,
    store,
)
from benchmarks.speed_page import PAGE, render
from benchmarks.tables import show_case, shown_rate, shown_seconds
from benchmarks.workload import Agreement, Comparison

ENVIRONMENT = {
    "date": "2026-01-31",
    "processor": "Some Processor",
    "cores": 2,
    "memory_gb": 23,
    "threads": 2,
    "versions": {"torch": "2.13.0", "numpy": "2.0"},
}


def case(name: str = "vocabulary 100", ours: float = 1.0, **changes) -> CaseResult:
    candidates = [
        CandidateResult("lmmodules", None, [], 2, [ours, ours], [2.0, 2.0], 500_000_000, 30.0),
        CandidateResult("Peer", None, [Agreement("loss", 1e-8, 1e-6)], 2, [2.0, 2.2], [6.0, 6.6], 10**9, 120.0),
        CandidateResult("Absent", "absent not installed"),
    ]
    comparisons = [Comparison("Peer", goal=2.0, floor=1.5, memory_goal=0.3), Comparison("Absent", goal=1.2)]
    given = {"unit": "tokens", "units": 2000, "matrix_product": [1e9, 1e9], "waiting_share": 0.02}
    given |= {"environment": ENVIRONMENT, **changes}
    return CaseResult(name, candidates=candidates, comparisons=comparisons, **given)


def result(*cases: CaseResult) -> WorkloadResult:
    return WorkloadResult("masked_lm_step", "Masked-LM training step", list(cases))


def test_json_and_back() -> None:
    stored = result(case())
    assert WorkloadResult.from_json(stored.to_json()) == stored


def test_cases_that_were_not_measured_again_stay(tmp_path: Path) -> None:
    store(result(case("a"), case("b")), tmp_path)
    store(result(case("b", ours=0.5), case("c")), tmp_path)
    [found] = load_all(tmp_path)
    assert [one.name for one in found.cases] == ["a", "b", "c"]
    assert [one.candidate("lmmodules").wall[0] for one in found.cases] == [1.0, 0.5, 1.0]


def test_what_was_measured_before_stays_as_a_ratio(tmp_path: Path) -> None:
    commits = [{"environment": {**ENVIRONMENT, "commit": commit}} for commit in ("aaaaaaa", "bbbbbbb", "ccccccc")]
    store(result(case("a", ours=2.0, **commits[0]), case("b")), tmp_path)
    store(result(case("a", ours=1.5, **commits[1])), tmp_path)
    store(result(case("a", **commits[2])), tmp_path)
    [found] = load_all(tmp_path)
    # Medians of 2.0 and 2.2 over ours; a peer that was not measured has no ratio.
    assert [(once.case, once.peer, once.commit) for once in found.history] == [
        ("a", "Peer", "aaaaaaa"),
        ("a", "Peer", "bbbbbbb"),
    ]
    assert [once.faster for once in found.history] == pytest.approx([1.05, 1.4])
    page = render([found])
    assert (
        "| a | Peer | 1.05 (`aaaaaaa`, 2026-01-31, Some Processor), 1.40 (`bbbbbbb`, 2026-01-31, Some Processor) |"
        in page
    )
    assert "measured before |" not in render([result(case())])


def test_threads_that_wait_asleep_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for policy, told in (("PASSIVE", "asleep"), ("", "awake")):
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
        assert environment()["idle_threads"] == told
    asleep = case(environment={**ENVIRONMENT, "idle_threads": "asleep"})
    assert "2 threads, idle asleep; torch" in render([result(asleep)])
    awake = case(waiting_share=0.5, environment={**ENVIRONMENT, "idle_threads": "awake"})
    console = Console(width=200, record=True, file=io.StringIO())
    show_case("A title", awake, console)
    assert "measure again with `--idle asleep`" in console.export_text()


def test_the_machine_is_described_and_not_named() -> None:
    found = environment()
    assert {"date", "processor", "cores", "memory_gb", "threads", "versions"} <= set(found)
    assert "torch" in found["versions"]
    assert socket.gethostname() not in str(found)


def test_the_page_is_made_from_what_is_stored() -> None:
    assert PAGE.read_text() == render(load_all(), growth.load_all()), "run `python -m benchmarks --render`"


def test_a_row_has_ratio_quartiles_goal_and_memory() -> None:
    page = render([result(case())])
    assert "*2026-01-31: Some Processor, 2 cores, 23 GiB, 2 threads; torch 2.13.0*" in page
    assert (
        "| vocabulary 100 | Peer | **2.10** (2.05 to 2.15) | 3.15 | **2** reached | 2,000 tokens/s | 50% | "
        "0.25 (30 MB) |" in page
    )
    assert "| vocabulary 100 | Absent | not measured: absent not installed |" in page


def test_a_table_tells_where_the_time_of_ours_and_of_the_first_peer_goes() -> None:
    found = case()
    assert "milliseconds of a step |" not in render([result(found)])
    found.candidate("lmmodules").kinds = {"matrix products": 80.0, "softmax": 19.8, "norms": 0.2}
    found.candidate("Peer").kinds = {"matrix products": 100.0, "dropout": 50.0}
    page = render([result(found)])
    assert (
        "| milliseconds of a step | lmmodules, vocabulary 100 | Peer, vocabulary 100 |\n|---|---|---|\n"
        "| matrix products | 80.0 | 100.0 |\n| dropout | 0.0 | 50.0 |\n| softmax | 19.8 | 0.0 |\n"
        "| the rest | 0.2 | 0.0 |\n" in page
    )


@pytest.mark.parametrize(
    ("ours", "word"), [(1.0, "goal 2x reached"), (1.2, "goal 2x"), (2.0, "below the floor 1.5x (goal 2x)")]
)
def test_a_goal_is_reached_or_not_and_a_floor_is_told(ours: float, word: str) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    show_case("A title", case(ours=ours), console)
    shown = console.export_text()
    lines = [line.rstrip(" │") for line in shown.splitlines() if "against Peer" in line]
    assert lines[0].endswith(word)
    assert "not measured: absent not installed" in shown
    assert "0.25x" in shown
    assert "goal at most 0.3x" in shown


def test_a_busy_machine_is_judged_by_processor_time() -> None:
    busy, quiet = case(ours=2.0, waiting_share=0.5), case(ours=2.0)
    assert (decisive_clock(busy), decisive_clock(quiet)) == ("processor", "wall")
    assert decisive_clock(case(waiting_share=None)) == "wall"
    assert "**2** reached" in render([result(busy)])
    assert "below the floor" in render([result(quiet)])


def test_numbers_have_the_digits_that_mean_something() -> None:
    assert [shown_seconds(value) for value in (12.34, 0.4567, 0.0123, 2.5e-7)] == [
        "12.3 s",
        "457 ms",
        "12.3 ms",
        "0.25 us",
    ]
    assert [shown_rate(value) for value in (1234567.8, 99.5)] == ["1,234,568", "99.50"]
