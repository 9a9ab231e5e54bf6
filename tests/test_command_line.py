"""What the commands print, leave and refuse, run as a user runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from lmmodules import load
from lmmodules.callbacks import read_metrics
from lmmodules.run_lock import LOCK, only_run_in

Command = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.slow

WRONG = {
    "a run without a length": ([], "`max_steps` is missing"),
    "a length of nothing": (["max_steps=null"], "`max_steps` is missing"),
    "a negative length": (["max_steps=-5"], "`max_steps` must be a whole number of optimizer steps"),
    "a missing corpus": (["max_steps=4", "data.path=nowhere"], "nowhere"),
    "an empty corpus": (["max_steps=4", "data.path=empty"], "empty"),
    "a broken jsonl line": (["max_steps=4", "data.path=broken.jsonl"], "line 2"),
    "a corpus smaller than a batch": (["max_steps=4", "data.batch_size=100000"], "batch"),
    "a vocabulary that the corpus cannot fill": (["max_steps=4", "tokenizer.vocab_size=60000"], "vocab_size"),
    "a warmup longer than the run": (
        ["max_steps=4", "schedule.warmup_steps=20", "schedule.warmup_ratio=null"],
        "`warmup_steps` must be less than `max_steps` (4), but is 20",
    ),
    "a causal backbone under a masked objective": (
        ["max_steps=4", "objective=masked_lm"],
        "`MaskedLM` needs a bidirectional backbone, but `decoder_tiny` is causal; use for example `model=encoder_",
    ),
    "a bidirectional backbone under a causal objective": (
        ["max_steps=4", "model=encoder_tiny"],
        "`CausalLM` needs a causal backbone, but `encoder_tiny` is bidirectional; use for example `model=d",
    ),
    "a sequence longer than the learned positions": (
        ["max_steps=4", "position=learned", "model.max_length=16"],
        "`data.max_length` must not exceed `model.max_length` (16), but is 32; use `data.max_length=16`",
    ),
    "a vocabulary smaller than the tokenizer's": (["max_steps=4", "model.vocab_size=10"], "use `model.vocab_size="),
    "a transform of another objective": (["max_steps=4", "transform=masking"], "needs a `CausalBatch`"),
    "a contrast of one": (
        ["max_steps=4", "objective=coco_lm", "model=encoder_tiny", "data.batch_size=1"],
        "`data.batch_size` must be at least 2 with `objective.scl=true`",
    ),
    "a misspelt option": (["max_steps=4", "objective.lable_smoothing=0.1"], "lable_smoothing"),
    "a misspelt group": (["max_steps=4", "model=decoder_smal"], "decoder_small"),
    "an empty path": (["max_steps=4", "data.path="], "`data.path` must name files or directories"),
    "a file where a directory is needed": (["max_steps=4", "paths.output_dir=broken.jsonl/x"], "cannot be written"),
    "a logger that is not installed": (["max_steps=4", "logger=mlflow"], "pip install"),
    "nothing left to train on": (["max_steps=4", "data.validation_fraction=1"], "`data.validation_fraction` must be"),
    "text without text": (["max_steps=4", "data.path=nothing.txt"], "a corpus must hold text"),
    "a learning rate below nothing": (["max_steps=4", "optimizer.lr=-1"], "`optimizer` was refused"),
    "a missing checkpoint": (["max_steps=4", "resume=nowhere.ckpt"], "`resume` must be a file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_input_gets_one_sentence(case: str, command: Command, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.txt").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"text": "one"}\n{"text": \n')
    overrides, sentence = WRONG[case]
    result = command("train", *tiny, *overrides)
    assert result.returncode == 2, result.stderr
    assert sentence in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert lines[-1].startswith(("train.py: ", "lmm-train: "))
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists(), "nothing half-written"


def test_the_traceback_is_there_for_who_wants_it(command: Command) -> None:
    result = command("train", environment={"LMM_TRACEBACK": "1"})
    assert result.returncode != 0
    assert "Traceback" in result.stderr


def test_a_run_leaves_its_directory(command: Command, tiny: list[str], tmp_path: Path) -> None:
    result = command("train", *tiny, "max_steps=6", "validate_every_steps=3", "paths.output_dir=here")
    assert result.returncode == 0, result.stderr
    here = tmp_path / "here"
    assert OmegaConf.load(here / "config.yaml").max_steps == 6
    assert "max_steps=6" in OmegaConf.load(here / "overrides.yaml")
    environment = json.loads((here / "environment.json").read_text())
    assert environment["seed"] == 0
    assert environment["packages"]["torch"]
    rows = read_metrics(here / "metrics.csv")
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "val/loss" in row] == [3, 6]
    summary = json.loads((here / "summary.json").read_text())
    assert summary["steps"] == 6
    assert summary["tokens"] == 6 * 4 * 32
    assert summary["train_loss"] == pytest.approx(rows[-1].get("train/loss", rows[-2].get("train/loss")))
    assert summary["val_perplexity"] > 1
    assert summary["unigram_entropy"] > 1
    for key in ("seconds", "tokens_per_second", "parameters", "val_loss", "vocab_size"):
        assert summary[key] is not None, key
    assert (here / "checkpoints" / "last.ckpt").exists()
    assert (here / "checkpoints" / "best.ckpt").exists()
    assert (here / "loss.png").stat().st_size > 10_000
    assert "validation perplexity" in result.stdout
    assert [line.split()[1] for line in result.stderr.splitlines() if line.startswith("step ")].count("6/6") == 2

    text = command("generate", "checkpoint=here", "prompt=the cat", "max_new_tokens=5", "temperature=0")
    assert text.returncode == 0, text.stderr
    assert text.stdout.startswith("the cat")
    assert (
        command("generate", "checkpoint=here", "prompt=the cat", "max_new_tokens=5", "temperature=0").stdout
        == text.stdout
    )

    path = next(item for item in tiny if item.startswith("data.path"))
    evaluation = command(
        "evaluate", "checkpoint=here", path, "data.max_length=32", "data.batch_size=4", "data.validation_fraction=0.34"
    )
    assert evaluation.returncode == 0, evaluation.stderr
    assert "perplexity" in evaluation.stdout


def test_a_truncated_and_a_foreign_checkpoint_are_told_apart(command: Command, tiny: list[str], tmp_path: Path) -> None:
    assert command("train", *tiny, "max_steps=1", "paths.output_dir=here").returncode == 0
    whole = (tmp_path / "here/checkpoints/last.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    for name in ("cut.ckpt", "text.ckpt"):
        result = command("generate", f"checkpoint={name}", "prompt=x")
        assert result.returncode == 2
        assert f"`{name}` cannot be read as a checkpoint" in result.stderr


def test_a_resumed_run_equals_an_unbroken_one(command: Command, tiny: list[str], tmp_path: Path) -> None:
    steps = 30  # more than an epoch of this corpus
    run = [*tiny, "data.batch_size=16", "model.dropout=0.3", "model.attention_dropout=0.3"]
    whole = command("train", *run, f"max_steps={steps}", "paths.output_dir=whole")
    assert whole.returncode == 0, whole.stderr
    stopped = command(
        "train", *run, "max_steps=11", f"callbacks.warmup_decay.max_steps={steps}", "paths.output_dir=run"
    )
    assert stopped.returncode == 0, stopped.stderr
    again = command("train", *run, f"max_steps={steps}", "resume=run", "paths.output_dir=run")
    assert again.returncode == 0, again.stderr
    expected = read_metrics(tmp_path / "whole/metrics.csv")
    found = read_metrics(tmp_path / "run/metrics.csv")
    for name in ("train/loss", "lr", "tokens"):
        values = [[row[name] for row in rows if name in row] for rows in (expected, found)]
        assert len(values[1]) == steps
        assert values[1] == pytest.approx(values[0], abs=1e-6), name
    weights = [load(tmp_path / name).state_dict() for name in ("whole", "run")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_says_how_to_go_on(signal_number: int, code: int, tiny: list[str], tmp_path: Path) -> None:
    arguments = [*tiny, "max_steps=5000", "checkpoint_every_steps=10", "paths.output_dir=run"]
    with subprocess.Popen(
        [sys.executable, "-m", "lmmodules.train", *arguments],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts this in the background ignores Ctrl-C, and what it starts would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step     25/"):
                process.send_signal(signal_number)
                break
        rest = process.stderr.read()
    assert process.returncode == code
    stopped = re.search(r"stopped at step (\d+) of 5000: go on with `resume=", rest)
    assert stopped, rest
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"]
    # A signal to end is answered after the batch; a key may be pressed in the middle of one.
    assert saved == int(stopped[1]) if signal_number == signal.SIGTERM else saved % 10 == 0
    assert "Traceback" not in rest


def test_a_run_without_held_out_text(command: Command, tiny: list[str], tmp_path: Path) -> None:
    result = command("train", *tiny, "max_steps=2", "data.validation_fraction=0", "paths.output_dir=here")
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "here/summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["val_loss"] is None
    assert "unigram_entropy" not in summary


def test_a_run_goes_on_only_where_it_fits(command: Command, tiny: list[str], tmp_path: Path) -> None:
    assert command("train", *tiny, "max_steps=2", "paths.output_dir=here").returncode == 0
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "here/checkpoints/last.ckpt").read_bytes()[:50_000])
    wrong = {
        "`paths.output_dir` must not hold another run": ["max_steps=4", "paths.output_dir=here"],
        "`max_steps` must be more than the 2 steps": ["max_steps=2", "resume=here"],
        "`model.num_layers` must be 2": ["max_steps=4", "resume=here", "model.num_layers=3"],
        "was trained with another tokenizer": ["max_steps=4", "resume=here", "tokenizer.vocab_size=280"],
        "`optimizer` must be `torch.optim.AdamW`": ["max_steps=4", "resume=here", "optimizer=adafactor"],
        "`cut.ckpt` cannot be read as a checkpoint": ["max_steps=4", "resume=cut.ckpt"],
    }
    for sentence, overrides in wrong.items():
        result = command("train", *tiny, *overrides)
        assert result.returncode == 2, result.stderr
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr


def test_two_runs_never_write_to_one_directory(command: Command, tiny: list[str], tmp_path: Path) -> None:
    with only_run_in(tmp_path / "here"):
        before = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
        result = command("train", *tiny, "max_steps=2", "paths.output_dir=here")
        assert result.returncode == 2
        assert f"`paths.output_dir` must be free, but process {os.getpid()} is still writing to" in result.stderr
        assert {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()} == before
    assert command("train", *tiny, "max_steps=2", "paths.output_dir=here").returncode == 0
    assert not (tmp_path / "here" / LOCK).exists()


def test_a_run_that_diverges_fails(command: Command, tiny: list[str], tmp_path: Path) -> None:
    result = command("train", *tiny, "max_steps=9", "optimizer.lr=1e30", "paths.output_dir=here")
    assert result.returncode == 1
    assert "the run has diverged" in result.stderr
    assert not (tmp_path / "here/summary.json").exists()


def test_a_sweep_runs_and_returns_a_loss(command: Command, tiny: list[str], tmp_path: Path) -> None:
    result = command("train", "-m", *tiny, "max_steps=2", "optimizer.lr=1e-3,1e-2", "paths.sweep_dir=sweep")
    assert result.returncode == 0, result.stderr
    losses = [json.loads((tmp_path / f"sweep/{job}/summary.json").read_text())["val_loss"] for job in (0, 1)]
    assert losses[0] != losses[1]


def test_processes_inside_a_sweep_of_one_process_are_refused(command: Command, tiny: list[str]) -> None:
    result = command("train", "-m", *tiny, "max_steps=2", "seed=0,1", "strategy=ddp", "trainer.devices=2")
    assert result.returncode == 2
    assert "use `hydra/launcher=local`" in result.stderr


def test_preview_of_a_large_network_needs_no_memory(command: Command, tmp_path: Path) -> None:
    result = command(
        "preview", "model=gpt2_xl", "strategy=fsdp", "trainer.devices=8", "max_steps=1000", "paths.output_dir=plan"
    )
    assert result.returncode == 0, result.stderr
    assert "1,557,611,200 parameters" in result.stdout
    assert (tmp_path / "plan/learning_rate.png").exists()


def test_help_imports_neither_torch_nor_lightning(command: Command, tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['lmm-train', '--help']\n"
        "from lmmodules.train import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'lightning', 'tokenizers') if name in sys.modules])"
    )
    (tmp_path / "show.py").write_text(code)
    result = subprocess.run([sys.executable, "show.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
    assert "max_steps" in result.stdout
