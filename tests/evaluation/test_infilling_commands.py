"""Training, filling in and scoring, as the commands do it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import lmmodules
from lmmodules.callbacks import read_metrics
from lmmodules.composition import compose_config
from lmmodules.errors import InputError
from lmmodules.generate import generate

Command = Callable[..., "subprocess.CompletedProcess[str]"]
LOSSES = ("left_to_right_loss", "prefix_loss", "suffix_loss", "middle_loss", "end_loss")


@pytest.fixture(scope="module")
def trained(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The directory of a short run, trained when it is first asked for."""
    runs: dict[tuple[str, ...], Path] = {}

    def train(*overrides: str) -> Path:
        if overrides not in runs:
            runs[overrides] = tmp_path_factory.mktemp("run")
            shape = [*tiny, "data.max_length=64", "max_steps=4", "validate_every_steps=4", *overrides]
            lmmodules.compose(*shape, "callbacks.progress=null", directory=str(runs[overrides])).fit()
        return runs[overrides]

    return train


def write(checkpoint: Path, *overrides: str) -> list[str]:
    return generate(compose_config("generate", f"checkpoint={checkpoint}", "max_new_tokens=6", *overrides))


def test_a_run_logs_every_section(trained: Callable[..., Path]) -> None:
    row = next(row for row in reversed(read_metrics(trained("objective=fim") / "metrics.csv")) if "val/loss" in row)
    # A section without a target has no mean, and must not be told as a loss of zero.
    told = {name: row[f"val/{name}"] for name in LOSSES if f"val/{name}" in row}
    assert set(LOSSES) - set(told) <= {"end_loss"}
    assert all(loss > 0 for loss in told.values())


def test_a_gap_is_filled_while_one_looks(trained: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    for order in ("spm", "psm"):
        fill = ("prefix=the cat", "suffix=a dog", f"order={order}", "temperature=0")
        middles = write(trained("objective=fim"), *fill)
        assert write(trained("objective=fim"), *fill) == middles
        assert capsys.readouterr().out.endswith(f"the cat{middles[0]}a dog\n" * 2)


def test_several_samples_are_one_batch(trained: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    middles = write(trained("objective=fim"), "prefix=the cat", "num_samples=3", "temperature=2", "top_k=50")
    lines = [f"--- {number + 1} of 3\nthe cat{middle}\n" for number, middle in enumerate(middles)]
    assert capsys.readouterr().out.endswith("".join(lines))
    assert len(set(middles)) == 3


def test_a_prompt_is_still_written_on_from(trained: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    written = write(trained("objective=fim"), "prompt=the cat", "temperature=0")
    assert capsys.readouterr().out.endswith(f"the cat{written[0]}\n")


@pytest.mark.parametrize(
    ("run", "overrides", "sentence"),
    [
        ([], ["prefix=a", "suffix=b"], "a `CausalLM` never saw the sentinels; train one with `objective=fim`"),
        (["objective=fim", "transform.fim_rate=0"], ["prefix=a"], "was trained with `transform.fim_rate=0`"),
        (["objective=fim"], ["prefix=a", "prompt=b"], "`prompt` is written on from, `prefix` and `suffix`"),
        (["objective=fim"], ["suffix=" + "word " * 60], "`suffix` must fit into the context, where 54 tokens are left"),
        (["objective=fim"], ["suffix=word", "max_length=11"], "`suffix` must fit into the context, where 1 tokens"),
        (["objective=fim"], ["prefix=a", "num_samples=0"], "`num_samples` must be a whole number, at least 1"),
    ],
)
def test_refusals(trained: Callable[..., Path], run: list[str], overrides: list[str], sentence: str) -> None:
    checkpoint = trained(*run)
    with pytest.raises(InputError) as error:
        write(checkpoint, *overrides)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("transform.fim_rate=1.5", "`fim_rate` must lie between 0 and 1, but is 1.5; use `transform.fim_rate=0.5`"),
        ("tokenizer=byte_level_bpe", "has no `<fim_middle>`, `<fim_prefix>`, `<fim_suffix>`; use `tokenizer=fim`"),
        ("model=encoder_tiny", "`FIM` needs a causal backbone, but `"),
    ],
)
def test_a_run_that_can_not_be(tiny: list[str], override: str, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        lmmodules.compose(*tiny, "objective=fim", "max_steps=2", override)
    assert sentence in str(error.value)


@pytest.mark.slow
def test_a_checkpoint_is_scored(
    trained: Callable[..., Path], command: Command, tiny: list[str], tmp_path: Path
) -> None:
    path = next(item for item in tiny if item.startswith("data.path"))
    shared = (f"checkpoint={trained('objective=fim')}", path, "data.validation_fraction=0.34")
    filled = command(
        "evaluate", *shared, "evaluation=infilling", "evaluation.num_gaps=3", "evaluation.max_new_tokens=16",
        "evaluation.max_gap=24", "paths.output_dir=filled",
    )  # fmt: skip
    assert filled.returncode == 0, filled.stderr
    figures = json.loads((tmp_path / "filled/evaluation.json").read_text())
    assert figures["random_span/gaps"] == figures["single_line/gaps"] == 3
    in_order = command("evaluate", *shared, "transform=fim", "transform.fim_rate=0", "paths.output_dir=in_order")
    assert in_order.returncode == 0, in_order.stderr
    figures = json.loads((tmp_path / "in_order/evaluation.json").read_text())
    assert figures["loss"] == pytest.approx(figures["left_to_right_loss"])
