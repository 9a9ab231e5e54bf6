"""Fine-tuning by its commands: from a run that was trained here, and what is told of a checkpoint."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lmmodules import InputError, compose, load
from lmmodules.composition import compose_config
from lmmodules.objectives import Classification

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def write_rows(path: Path, number: int = 60) -> Path:
    rows = [
        f"the {'good' if index % 2 else 'bad'} film {index}\t{'yes' if index % 2 else 'no'}" for index in range(number)
    ]
    path.write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return path


def test_classes_of_the_data_become_those_of_the_objective(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.tsv")
    common = [
        "objective=classification", "model=encoder_tiny", f"data.path={path}", "tokenizer.vocab_size=270", "max_steps=2"
    ]  # fmt: skip
    run = compose(*common, directory=str(tmp_path / "run"))
    assert isinstance(run.objective, Classification)
    assert run.objective.classes == ("no", "yes")
    assert run.config.objective.classes == ["no", "yes"]
    assert "transform" not in run.config
    with pytest.raises(InputError, match=r"`objective.classes` must be that of the data, \['no', 'yes'\]"):
        compose(*common, "objective.classes=[yes,no]", directory=str(tmp_path / "run"))
    with pytest.raises(
        InputError, match=r"`Classification` needs a `LabelledBatch`, but the data yields a `ScoredBatch`"
    ):
        compose(*common, "data.label_kind=scores", directory=str(tmp_path / "run"))


# Task: learning rate, batch, warmup, steps: fairseq, examples/roberta/README.glue.md.
PUBLISHED = {
    "mnli": (1e-5, 32, 7432, 123873),
    "qnli": (1e-5, 32, 1986, 33112),
    "qqp": (1e-5, 32, 28318, 113272),
    "rte": (2e-5, 16, 122, 2036),
    "sst2": (1e-5, 32, 1256, 20935),
    "mrpc": (1e-5, 16, 137, 2296),
    "cola": (1e-5, 16, 320, 5336),
    "stsb": (2e-5, 16, 214, 3598),
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_grids_are_those_published(task: str) -> None:
    config = compose_config("train", f"experiment=glue_{task}")
    found = (config.optimizer.lr, config.data.batch_size, config.schedule.warmup_steps, config.max_steps)
    assert found == PUBLISHED[task]
    assert config.data.task == task
    assert (list(config.optimizer.betas), config.optimizer.eps, config.optimizer.weight_decay) == (
        [0.9, 0.98],
        1e-6,
        0.1,
    )
    assert config.trainer.gradient_clip_val == 0
    assert config.parameter_groups.no_decay == "none"
    assert config.schedule._target_ == "lmmodules.optim.Linear"
    assert config.objective._target_.endswith("Regression" if task == "stsb" else "Classification")
    assert (config.model.hidden_size, config.model.num_layers, config.model.dropout) == (1024, 24, 0.1)


def test_the_best_checkpoint_is_the_most_accurate_one() -> None:
    config = compose_config("train", "objective=classification", "max_steps=1")
    assert (config.callbacks.best.monitor, config.callbacks.best.mode) == ("val/accuracy", "max")
    config = compose_config("train", "objective=regression", "max_steps=1")
    assert (config.callbacks.best.monitor, config.callbacks.best.mode) == ("val/loss", "min")


@pytest.mark.slow
def test_from_a_pretrained_run_to_a_report(command: Command, texts: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.tsv")
    pretrained = command(
        "train", "objective=masked_lm", "model=encoder_tiny", "trainer.accelerator=cpu", f"data.path={texts}",
        "data.max_length=32", "data.batch_size=4", "tokenizer.vocab_size=300", "max_steps=2",
        "paths.output_dir=pretrained",
    )  # fmt: skip
    assert pretrained.returncode == 0, pretrained.stderr
    tuned = command(
        "train", "objective=classification", "model=pretrained", "model.weights=pretrained", "tokenizer=checkpoint",
        "tokenizer.path=pretrained", "trainer.accelerator=cpu", f"data.path={path}", "data.max_length=32",
        "max_steps=3", "optimizer.lr=0.0", "optimizer.weight_decay=0.0", "paths.output_dir=tuned",
    )  # fmt: skip
    assert tuned.returncode == 0, tuned.stderr
    assert "validation accuracy" in tuned.stdout
    assert "nats per sequence" in tuned.stdout
    assert "perplexity" not in tuned.stdout
    before, after = load(tmp_path / "pretrained"), load(tmp_path / "tuned")
    for (name, ours), theirs in zip(after.backbone.named_parameters(), before.backbone.parameters(), strict=True):
        assert ours.equal(theirs), name
    summary = json.loads((tmp_path / "tuned/summary.json").read_text())
    assert 0 <= summary["val_accuracy"] <= 1

    report = command(
        "evaluate", "checkpoint=tuned", "evaluation=classification", "evaluation.predictions=answers.jsonl",
        "paths.output_dir=report",
    )  # fmt: skip
    assert report.returncode == 0, report.stderr
    figures = json.loads((tmp_path / "report/evaluation.json").read_text())
    assert figures["accuracy"] == pytest.approx(summary["val_accuracy"])
    assert figures["loss"] == pytest.approx(summary["val_loss"], rel=1e-4)
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == figures["rows"] < 60
    assert "taken for yes" in report.stdout

    (tmp_path / "others.tsv").write_text("sentence\tlabel\nthe good film\tyes\nbest film\tyes\n")
    others = command(
        "evaluate", "checkpoint=tuned", "evaluation=classification", "data.path=others.tsv", "paths.output_dir=others"
    )
    assert others.returncode == 0, others.stderr
    assert json.loads((tmp_path / "others/evaluation.json").read_text())["rows"] == 2  # all of it, and one class only

    for arguments, sentence in (
        (["checkpoint=tuned"], "has no likelihood of text; use `evaluation=classification`"),
        (["checkpoint=pretrained", "evaluation=classification"], "needs a checkpoint of `objective=classification`"),
    ):
        refused = command("evaluate", *arguments, "paths.output_dir=refused")
        assert refused.returncode == 2
        assert sentence in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
