"""How cost grows: that a point is measured, that powers are what they say, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import growth
from benchmarks.growth import STUDIES, Growth, Point, main, table
from benchmarks.growth_picture import draw

ENVIRONMENT = {"date": "2026-01-31", "processor": "P", "cores": 2, "memory_gb": 23, "threads": 2, "versions": {}}


def measured(study: str = "length") -> Growth:
    points = [Point(128, 0.1, 50.0, 8192, 10**9), Point(512, 0.4, 100.0, 8192, 2 * 10**9)]
    return Growth(study, points, ENVIRONMENT)


def test_powers_since_the_point_before() -> None:
    assert measured().exponents("seconds") == [None, pytest.approx(1.0)]
    assert measured().exponents("memory_mb") == [None, pytest.approx(math.log(2) / math.log(4))]


def test_what_fitted_into_the_memory_there_was_has_no_power() -> None:
    points = [Point(1, 0.1, 0.0, 1), Point(4, 0.4, 0.0, 4), Point(16, 1.6, 9.0, 16), Point(64, 6.4, 18.0, 64)]
    grown = Growth("corpus", points, ENVIRONMENT)
    assert grown.exponents("memory_mb") == [None, None, None, pytest.approx(0.5)]
    assert [row[4:6] for row in table(grown)[1:3]] == [["0 MB", ""], ["0 MB", ""]]


def test_a_row_has_time_power_rate_memory_and_arithmetic() -> None:
    head, first, second = table(measured())
    assert head == ["tokens of a sequence", "time", "grows as", "tokens/s", "memory", "grows as", "GFLOP/s"]
    assert first == ["128", "100 ms", "", "81,920", "50 MB", "", "10"]
    assert second == ["512", "400 ms", "x^1.00", "20,480", "100 MB", "x^0.50", "5"]


def test_what_is_stored_is_read(tmp_path: Path) -> None:
    measured("vocabulary").write(tmp_path)
    measured().write(tmp_path)
    assert growth.load_all(tmp_path) == [measured(), measured("vocabulary")]  # in the order of the studies


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = draw([measured(), measured("depth")], tmp_path / "growth.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_middle_of_the_rounds_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([3.0, 30.0, 1.0, 10.0, 2.0, 20.0])

    def point(name: str, value: int, threads: int) -> tuple[Point, dict]:
        return Point(value, next(seconds), 1.0, 1.0), ENVIRONMENT

    monkeypatch.setattr(growth, "_in_own_process", point)
    monkeypatch.setitem(growth.STUDIES, "length", growth.replace(STUDIES["length"], values=(128, 256)))
    assert [found.seconds for found in growth.measure("length", 3, 1).points] == [2.0, 20.0]


@pytest.mark.slow
@pytest.mark.parametrize(("study", "value"), [("documents", 4), ("corpus", 1)])
def test_a_point_is_measured_in_a_process_of_its_own(study: str, value: int) -> None:
    point, environment = growth._in_own_process(study, value, 1)
    assert point.value == value
    assert point.seconds > 0
    assert point.memory_mb > 0 or study == "corpus"  # a megabyte may fit into what the process had already
    assert environment["threads"] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["width"], "`study` must be one of length, vocabulary, depth, documents, corpus, but is `width`"),
        (["--rounds", "0"], "`--rounds` must be at least 1, but is 0; use `--rounds 3`"),
        (["length", "--largest", "128"], "`--largest` must leave at least two points of `length`, but is 128; use"),
    ],
)
def test_a_wrong_input_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert told.startswith("python -m benchmarks.growth: ")
    assert sentence in told
