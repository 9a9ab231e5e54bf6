"""The frame, with steps whose times are known: nothing here looks at a clock."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch

import lmmodules
from benchmarks import measurement
from benchmarks.measurement import measure, rotated, stalled_seconds, turn, warm_up
from benchmarks.operations import count_operations
from benchmarks.results import Ratio, memory_ratio, speed_ratio
from benchmarks.time_by_function import PYTHON, place_of, time_by_function
from benchmarks.time_by_kind import BETWEEN, OTHER, kind_of, time_by_kind
from benchmarks.workload import Agreement, Candidate, Case, Chosen, Comparison, Grid, Seconds, Workload


class Machine:
    """A clock that only moves when a step says so, at a speed that changes from turn to turn."""

    def __init__(self) -> None:
        self.time, self.slowness, self.calls = 0.0, 1.0, []

    def __call__(self) -> Seconds:
        return Seconds(self.time, 2 * self.time)

    def step(self, name: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.calls.append(name)
            self.time += seconds * self.slowness

        return work


class Nothing(Workload):
    title: ClassVar[str] = "nothing"

    def cases(self, grid: Grid) -> Iterator[Case]:
        yield from ()


def measured(machine: Machine, *candidates: Candidate, rounds: int = 5, comparisons: tuple[Comparison, ...] = ()):
    case = Case("a case", candidates, comparisons, units=10, counts_operations=False)
    return measure(Chosen("nothing", Nothing()), case, rounds=rounds, turn_seconds=1.0, now=machine)


@pytest.fixture(autouse=True)
def nothing_that_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement.gc, "collect", lambda: 0)
    monkeypatch.setattr(measurement, "matrix_product_speed", lambda device: 1e9)


def test_every_round_begins_with_the_next_candidate() -> None:
    assert [rotated("abc", number) for number in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]
    machine = Machine()
    measured(machine, *(Candidate(name, lambda name=name: machine.step(name, 1.0)) for name in "abc"), rounds=3)
    assert "".join(machine.calls[-9:]) == "abcbcacab"


def test_a_slow_spell_of_the_machine_does_not_move_the_ratio() -> None:
    machine = Machine()

    def drifting(name: str, seconds: float) -> Callable[[], None]:
        step = machine.step(name, seconds)

        def work() -> None:
            step()
            machine.slowness = 1.0 + 0.5 * (len(machine.calls) // 4 % 3)  # another speed for every second round

        return work

    comparison = Comparison("peer", ours="ours")
    found = measured(
        machine,
        Candidate("ours", lambda: drifting("ours", 1.0)),
        Candidate("peer", lambda: drifting("peer", 3.0)),
        rounds=6,
        comparisons=(comparison,),
    )
    ratio = speed_ratio(found, comparison)
    assert ratio is not None
    assert ratio.median == pytest.approx(3.0)
    assert max(found.candidate("ours").wall) == pytest.approx(2.0)
    assert [2 * wall for wall in found.candidate("peer").wall] == pytest.approx(found.candidate("peer").processor)


def test_the_ratio_is_the_median_of_rounds_and_not_the_ratio_of_medians() -> None:
    machine = Machine()
    found = measured(machine, *(Candidate(name, lambda: machine.step("x", 1.0)) for name in ("ours", "peer", "base")))
    found.candidate("ours").wall = [1.0, 2.0, 10.0]
    found.candidate("peer").wall = [5.0, 4.0, 10.0]
    found.candidate("base").wall = [0.5, 1.0, 4.0]
    plain = speed_ratio(found, Comparison("peer", ours="ours"))
    beyond = speed_ratio(found, Comparison("peer", ours="ours", beyond="base"))
    assert plain is not None
    assert beyond is not None
    assert plain.median == 2.0  # of 5, 2, 1
    assert statistics.median([5.0, 4.0, 10.0]) / statistics.median([1.0, 2.0, 10.0]) != plain.median
    assert beyond.median == 3.0  # of 9, 3, 1
    assert (Ratio.of([1, 2, 3, 4, 5]).lower, Ratio.of([1, 2, 3, 4, 5]).upper) == (2, 4)
    assert Ratio.of([1.5]) == Ratio(1.5, 1.5, 1.5)


def test_short_steps_are_repeated_until_a_turn_is_long_enough() -> None:
    machine = Machine()
    assert warm_up(machine.step("x", 0.01), turn_seconds=1.0, now=machine) == pytest.approx(100, abs=1)
    assert warm_up(machine.step("x", 5.0), turn_seconds=1.0, now=machine) == 1
    assert turn(machine.step("x", 0.01), 50, machine).wall == pytest.approx(0.01)


def test_a_step_that_times_itself_is_believed_but_not_repeated_for_it() -> None:
    machine = Machine()

    def run() -> Seconds:
        machine.time += 3.0
        return Seconds(0.001, 0.002)

    assert warm_up(run, turn_seconds=1.0, now=machine) == 1
    assert turn(run, 2, machine) == Seconds(0.001, 0.002)


def differs(difference: float) -> Callable[[], list[Agreement]]:
    return lambda: [Agreement("loss", difference, 1e-6)]


def test_a_peer_that_is_missing_or_differs_is_told_and_not_timed() -> None:
    machine = Machine()
    comparisons = tuple(Comparison(peer, ours="ours") for peer in ("missing", "different", "same"))
    found = measured(
        machine,
        Candidate("ours", lambda: machine.step("ours", 1.0)),
        Candidate("missing", lambda: machine.step("missing", 1.0), packages=("torch", "no_such_package")),
        Candidate("different", lambda: machine.step("different", 1.0), agreement=differs(0.5)),
        Candidate("no number", lambda: machine.step("no number", 1.0), agreement=differs(float("nan"))),
        Candidate("same", lambda: machine.step("same", 2.0), agreement=differs(1e-7)),
        comparisons=comparisons,
    )
    assert found.candidate("missing").skipped == "no_such_package not installed"
    assert found.candidate("different").skipped == "loss differs by 0.5 (at most 1e-06)"
    assert found.candidate("different").agreement == [Agreement("loss", 0.5, 1e-6)]
    assert found.candidate("no number").skipped is not None
    assert set(machine.calls) == {"ours", "same"}
    assert [speed_ratio(found, comparison) is None for comparison in comparisons] == [True, True, False]


def test_memory_is_a_share_of_the_peers() -> None:
    machine = Machine()
    found = measured(machine, *(Candidate(name, lambda: machine.step("x", 1.0)) for name in ("ours", "peer")))
    comparison = Comparison("peer", ours="ours")
    assert memory_ratio(found, comparison) is None
    found.candidate("ours").memory_mb, found.candidate("peer").memory_mb = 30.0, 120.0
    assert memory_ratio(found, comparison) == 0.25


def test_operations_are_those_that_are_done() -> None:
    a, b, total = torch.ones(3, 4), torch.ones(4, 5), torch.zeros(3, 5)
    assert count_operations(lambda: (a @ b, None)[1]) == 2 * 3 * 4 * 5
    assert count_operations(lambda: (total.addmm_(a, b), None)[1]) == 2 * 3 * 4 * 5
    heads = [torch.ones(2, 3, 7, 4, requires_grad=True) for _ in range(3)]
    products = 2 * 2 * 3 * 7 * 7 * 4

    def attend() -> None:
        torch.nn.functional.scaled_dot_product_attention(*heads).sum().backward()

    assert count_operations(attend) == (2 + 5) * products


def test_pressure_is_read_where_there_is_any(tmp_path) -> None:
    file = tmp_path / "cpu"
    assert stalled_seconds(file) is None
    file.write_text("some avg10=0.37 avg60=0.42 avg300=1.20 total=2500000\nfull avg10=0 avg60=0 avg300=0 total=0\n")
    assert stalled_seconds(file) == 2.5


def test_a_candidate_can_have_a_process_for_itself_or_one_for_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    happened = []

    class Process:
        def __init__(self, chosen: Chosen, case: str, candidate: str) -> None:
            self.name = candidate
            happened.append(f"{candidate} starts")

        def __call__(self) -> Seconds:
            machine.time += 1.0
            return Seconds(0.25, 0.5)

        def close(self) -> None:
            happened.append(f"{self.name} ends")

        def __enter__(self) -> Process:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

    monkeypatch.setattr(measurement, "OwnProcess", Process)

    def refuse() -> Callable[[], None]:
        raise AssertionError("built where it is measured from")

    found = measured(machine, Candidate("own", refuse, process="own"), Candidate("fresh", refuse, process="fresh"))
    assert found.candidate("own").wall == found.candidate("fresh").wall == [0.25] * 5
    assert happened.count("own starts") == 1
    assert happened.count("fresh starts") == 2 + 5  # warm-up and rounds
    assert happened[-1] == "own ends"


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::mm", "matrix products"),
        ("aten::addmm_", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::_log_softmax_backward_data", "softmax"),
        ("aten::native_layer_norm_backward", "norms"),
        ("aten::gelu_backward", "activations"),
        ("aten::native_dropout", "dropout"),
        ("aten::_fused_adamw_", "optimizer"),
        ("aten::embedding_dense_backward", "lookups"),
        ("aten::zero_", "filling"),
        ("aten::copy_", "copies"),
        ("aten::add_", "sums and products of elements"),
        ("aten::view", OTHER),
    ],
)
def test_operators_are_of_a_kind(operator: str, kind: str) -> None:
    assert kind_of(operator) == kind


def test_the_time_of_a_step_is_told_by_kind_and_adds_up() -> None:
    a, b = torch.randn(2, 256, 256)
    found = time_by_kind(lambda: (a @ b, (a + b).exp(), None)[-1])
    assert {"matrix products", "sums and products of elements", "softmax", BETWEEN} <= set(found)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert all(milliseconds >= 0 for milliseconds in found.values())


@pytest.mark.parametrize(
    ("counts_operations", "told_by", "kinds"),
    [
        (False, None, set()),
        (True, "nothing", set()),
        (False, "operators", {"matrix products", "Python and waiting"}),
        (False, "functions", {PYTHON}),
    ],
)
def test_it_is_told_where_the_time_goes_where_that_says_something(
    counts_operations: bool, told_by: Literal["operators", "functions", "nothing"] | None, kinds: set[str]
) -> None:
    def build() -> Callable[[], None]:
        matrix = torch.ones(8, 8)

        def step() -> None:
            torch.mm(matrix, matrix)

        return step

    case = Case("a case", (Candidate("ours", build),), (), 10, "tokens", counts_operations, told_by)
    found = measure(Chosen("nothing", Nothing()), case, rounds=1, turn_seconds=1e-7, now=Machine())
    assert kinds <= set(found.candidate("ours").kinds)
    assert bool(found.candidate("ours").kinds) == bool(kinds)


def test_time_is_told_by_the_functions_that_took_it() -> None:
    source = "def slow(array): array.sort()\ndef quick(array): array[:1].sort()"
    ours: dict[str, Callable[[np.ndarray], None]] = {}
    exec(compile(source, str(Path(lmmodules.__file__).parent / "sorting.py"), "exec"), ours)
    numbers = np.random.default_rng(0).random(100_000)

    def step() -> None:
        ours["slow"](numbers.copy())
        ours["quick"](numbers)

    found = time_by_function(step, 8.0)
    assert next(iter(found)) == "sorting, slow"
    assert "sorting, quick" in found, "sorting itself is written in C, so it counts for who asked for it"
    assert sum(found.values()) == pytest.approx(8.0, abs=0.01)


def test_a_place_is_a_function_of_ours_or_a_package() -> None:
    assert place_of((measurement.__file__, 1, "<listcomp>")) == "measurement, listcomp"
    assert place_of((torch.nn.functional.__file__, 1, "relu")) == "torch"
    assert place_of((np.__file__, 1, "sort")) == "numpy, sort"
    assert place_of((statistics.__file__, 1, "median")) == PYTHON
    assert place_of(("<string>", 1, "<module>")) == PYTHON
