from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lmmodules.errors import InputError
from lmmodules.evaluation.human_eval_infilling import FILES, HumanEvalInfilling, read_tasks
from lmmodules.evaluation.infill import Middle

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "human_eval_infilling"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")

ROWS = [
    {
        "task_id": f"SingleLineInfilling/Own/{number}",
        "entry_point": "add",
        "prompt": "def add(a, b):\n",
        "canonical_solution": f"    return a + b + {number}\n",
        "suffix": "\n\n# behind\n",
        "test": f"\ndef check(candidate):\n    assert candidate(2, 3) == {5 + number}\n",
    }
    for number in range(3)
]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Three tasks of our own in the format of the benchmark."""
    with gzip.open(tmp_path / FILES["single_line"], "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in ROWS)
    return tmp_path


def benchmark(path: Path, **options) -> HumanEvalInfilling:
    return HumanEvalInfilling(
        path, **{"tasks": ["single_line"], "run_programs": True, "timeout_seconds": 20, **options}
    )


def test_tasks_are_read(tasks: Path) -> None:
    first = read_tasks(tasks, "single_line")[0]
    assert (first.name, first.middle, first.entry_point) == (ROWS[0]["task_id"], ROWS[0]["canonical_solution"], "add")
    program = first.program("    pass\n", "word")
    assert program.startswith("def add(a, b):\n    pass\n\n\n# behind\n")
    assert program.endswith("check(add)\nprint('word')\n")


@on_linux
def test_right_middles_pass_and_others_do_not(tasks: Path) -> None:
    def fill(gaps: Sequence[tuple[str, str]]) -> list[Middle]:
        """Right for the first task twice, for the second once, for the third never."""
        right = [row["canonical_solution"] for row in ROWS]
        texts = [right[0], right[0], "    return None\n", right[1], "    return\n", "    import no_such\n"]
        assert gaps == [(row["prompt"], row["suffix"]) for row in ROWS for _ in range(2)]
        return [Middle(text, True) for text in texts]

    figures = benchmark(tasks, num_samples=2, k=[1, 2])(fill)
    assert figures == {
        "human_eval/single_line/pass@1": pytest.approx(0.5),
        "human_eval/single_line/pass@2": pytest.approx(2 / 3),
        "human_eval/single_line/tasks": 3,
    }
    fewer = benchmark(tasks, max_tasks=1)(lambda gaps: [Middle(ROWS[0]["canonical_solution"], True)] * len(gaps))
    assert fewer == {"human_eval/single_line/pass@1": 1.0, "human_eval/single_line/tasks": 1}


@on_linux
@pytest.mark.parametrize(
    "middle",
    [
        "    return 0\nimport sys; sys.exit(0)\n",
        "    return 0\nimport os; os._exit(0)\n",
        "    return 0\nprint('passed')\ndef check(candidate): raise SystemExit\n",
        "    while True: pass\n",
    ],
)
def test_ending_early_is_not_passing(tasks: Path, middle: str) -> None:
    task = read_tasks(tasks, "single_line")[0]
    assert benchmark(tasks, timeout_seconds=2).check([task], [middle]) == [False]


@on_linux
def test_a_gap_that_no_context_holds_counts_as_failed(tasks: Path) -> None:
    right = [Middle(row["canonical_solution"], True) for row in ROWS]

    def score(middles: Sequence[Middle | None]) -> dict[str, float | int]:
        return benchmark(tasks, num_samples=2)(lambda gaps: [middle for middle in middles for _ in range(2)])

    figures = score([right[0], None, right[2]])
    assert figures["human_eval/single_line/too_long"] == 1
    assert figures["human_eval/single_line/tasks"] == 3
    assert figures["human_eval/single_line/pass@1"] == pytest.approx(2 / 3)
    assert score(right)["human_eval/single_line/pass@1"] == 1.0
    assert score([None, None, None])["human_eval/single_line/pass@1"] == 0.0


def test_kinds_are_known_before_a_gap_is_filled() -> None:
    assert HumanEvalInfilling(tasks="single_line").tasks == ("single_line",)
    with pytest.raises(InputError, match=r"`tasks` must be among single_line, .*, but has 'lines'"):
        HumanEvalInfilling(tasks=["lines"])


def test_without_a_path_there_is_nothing_to_do() -> None:
    assert HumanEvalInfilling()(lambda gaps: []) == {}


def test_refusals(tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"allow it by `evaluation\.human_eval\.run_programs=true`"):
        HumanEvalInfilling(tasks)
    with pytest.raises(InputError, match=r"HumanEval-RandomSpanInfilling.jsonl.gz` does not exist; use `evaluation"):
        read_tasks(tasks, "random_span")
    with pytest.raises(InputError, match="`tasks` must be among single_line, multi_line"):
        read_tasks(tasks, "lines")
    with pytest.raises(InputError, match=r"`k` must lie between 1 and `num_samples` \(1\), but is \[10\]"):
        HumanEvalInfilling(k=[10])
    with pytest.raises(InputError, match="`max_tasks` must be a whole number, at least 1, but is 0"):
        HumanEvalInfilling(max_tasks=0)
    with pytest.raises(InputError, match=r"`max_tasks` must be a whole number, at least 1, but is 1\.5"):
        HumanEvalInfilling(max_tasks=1.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"`num_samples` must be a whole number, at least 1, but is 1\.5"):
        HumanEvalInfilling(num_samples=1.5)  # type: ignore[arg-type]
    for attempts in (1, [1.5]):
        with pytest.raises(InputError, match=r"`k` must be .*, but is .*; use .*`evaluation.human_eval.k=\[1\]`"):
            HumanEvalInfilling(k=attempts, num_samples=2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="`timeout_seconds` must be positive, but is soon"):
        HumanEvalInfilling(timeout_seconds="soon")  # type: ignore[arg-type]
    (tasks / FILES["random_span"]).write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read as tasks"):
        read_tasks(tasks, "random_span")


@pytest.mark.skipif(not DATA.is_dir(), reason="the benchmark is not here: openai/human-eval-infilling, folder data")
@on_linux
def test_the_solutions_of_the_benchmark_pass() -> None:
    """Of every tenth task here; `test_the_whole_benchmark` takes them all."""
    for kind, number in (("single_line", 1033), ("random_span", 1640)):
        tasks = read_tasks(DATA, kind)
        assert len(tasks) == number
        assert len({task.name for task in tasks}) == number
        chosen = tasks[:: number // 8]
        harness = benchmark(DATA, timeout_seconds=20)
        assert all(harness.check(chosen, [task.middle for task in chosen]))


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the benchmark is not here: openai/human-eval-infilling, folder data")
@on_linux
def test_the_whole_benchmark() -> None:
    """Every canonical middle passes, and the empty one for 27 lines and 30 spans, 14 of which are empty anyway."""
    for kind, empty in (("single_line", 27), ("random_span", 30)):
        tasks = read_tasks(DATA, kind)
        assert all(benchmark(DATA, timeout_seconds=20).check(tasks, [task.middle for task in tasks]))
        assert sum(benchmark(DATA, timeout_seconds=10).check(tasks, [""] * len(tasks))) == empty
