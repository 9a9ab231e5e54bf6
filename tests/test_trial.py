"""Runs of a claim are trained once, scored on what is asked for, and told as they were."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

import lmmodules.trial
from lmmodules.composition import compose
from lmmodules.errors import InputError
from lmmodules.run_lock import only_run_in
from lmmodules.trial import OUTCOME, FinishedRun, Trial, told_facts

Log = list[tuple[str, bool]]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """What was trained, in place of training it."""
    overrides: list[Sequence[str]] = []

    def train(asked: Sequence[str], directory: Path) -> None:
        overrides.append(asked)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / OUTCOME).write_text(json.dumps({"overrides": list(asked), "diverged": "", "seconds": 2.5}))

    monkeypatch.setattr(lmmodules.trial, "_train", train)
    return overrides


class TestKeeping:
    def test_a_finished_run_is_not_trained_again(self, trained: list[Sequence[str]], tmp_path: Path) -> None:
        told: Log = []
        for _ in range(2):
            trial = Trial(tmp_path, ["max_steps=3"], 7, lambda arm, run: told.append((arm, run is not None)))
            run = trial.train("with care", "optimizer.lr=0.5")
            assert trial.runs == [run]
        assert trained == [("max_steps=3", "optimizer.lr=0.5", "seed=7")]
        assert told == [("with care", False), ("with care", True), ("with care", True)]
        assert run.directory.name.startswith("with_care-")
        assert run.overrides == ["max_steps=3", "optimizer.lr=0.5"]
        assert run.seconds == 2.5

    def test_an_unfinished_one_is(self, trained: list[Sequence[str]], tmp_path: Path) -> None:
        run = Trial(tmp_path, ["max_steps=3"], 0).train("arm")
        (run.directory / OUTCOME).unlink()
        run.directory.rmdir()
        Trial(tmp_path, ["max_steps=3"], 0).train("arm")
        assert len(trained) == 2

    def test_two_processes_never_train_the_same(self, trained: list[Sequence[str]], tmp_path: Path) -> None:
        run = Trial(tmp_path, ["max_steps=3"], 0).train("arm")
        (run.directory / OUTCOME).unlink()
        with (
            only_run_in(run.directory),
            pytest.raises(InputError, match=r"`runs` must be free, but process .* use another directory"),
        ):
            Trial(tmp_path, ["max_steps=3"], 0).train("arm")
        assert len(trained) == 1

    def test_whatever_changes_the_configuration_makes_another_run(
        self, trained: list[Sequence[str]], tmp_path: Path
    ) -> None:
        trials = [
            Trial(tmp_path, ["max_steps=3"], 0),
            Trial(tmp_path, ["max_steps=4"], 0),
            Trial(tmp_path, ["max_steps=3"], 1),
        ]
        directories = {trial.train("arm").directory for trial in trials}
        directories.add(trials[0].train("arm", "model=decoder_tiny").directory)
        assert len(directories) == len(trained) == 4

    def test_what_changes_nothing_does_not(self, trained: list[Sequence[str]], tmp_path: Path) -> None:
        Trial(tmp_path, ["max_steps=3"], 0).train("arm")
        Trial(tmp_path, ["max_steps=3"], 0).train("arm", "schedule=cosine")  # the default
        assert len(trained) == 1

    def test_a_wrong_override_is_told_in_one_sentence(self, trained: list[Sequence[str]], tmp_path: Path) -> None:
        with pytest.raises(InputError, match="`model` has no option `nowhere`"):
            Trial(tmp_path, ["max_steps=3"], 0).train("arm", "model=nowhere")
        assert not trained

    def test_figures_are_found_once(self, tmp_path: Path) -> None:
        run = FinishedRun("arm", tmp_path, {})
        assert run.kept("weight", lambda: {"grams": 3.0}) == {"grams": 3.0}
        assert run.kept("weight", lambda: {"grams": 4.0}) == {"grams": 3.0}
        assert run.kept("height", lambda: {"metres": 5.0}) == {"metres": 5.0}


class TestFinishedRun:
    def test_a_metric_over_steps(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.csv").write_text("step,train/loss,val/loss\n1,5,\n2,,4.5\n3,4,\n4,,4.25\n")
        run = FinishedRun("arm", tmp_path, {"diverged": ""})
        assert run.curve() == [(2.0, 4.5), (4.0, 4.25)]
        assert run.curve("train/loss") == [(1.0, 5.0), (3.0, 4.0)]
        assert run.loss() == 4.25
        assert run.loss("train/loss") == 4.0

    def test_a_diverged_one_is_infinitely_bad(self, tmp_path: Path) -> None:
        run = FinishedRun("arm", tmp_path, {"diverged": "the training loss is nan"})
        assert run.loss() == math.inf
        assert run.curve() == []
        assert Trial(tmp_path, [], 0).evaluate(run) == {"loss": math.inf}
        assert run.unigram_entropy is None


@pytest.mark.slow
class TestTraining:
    def overrides(self, texts: Path) -> list[str]:
        return [
            "objective=masked_lm",
            "model=encoder_tiny",
            "trainer.accelerator=cpu",
            f"data.path={texts}",
            "data.max_length=32",
            "data.batch_size=4",
            "data.validation_fraction=0.34",
            "tokenizer.vocab_size=300",
            "max_steps=4",
            "validate_every_steps=2",
        ]

    def test_a_run_leaves_what_its_claim_asks_for(self, texts: Path, tmp_path: Path) -> None:
        trial = Trial(tmp_path, self.overrides(texts), seed=3)
        run = trial.train("arm", "optimizer.lr=1e-3")
        assert [step for step, _ in run.curve()] == [2.0, 4.0]
        summary = json.loads((run.directory / "summary.json").read_text())
        assert summary["seed"] == 3
        assert run.loss() == pytest.approx(summary["val_loss"], rel=1e-6)
        assert run.seconds == summary["seconds"]
        assert run.unigram_entropy == summary["unigram_entropy"]
        assert run.outcome["environment"]["seed"] == 3
        assert not (run.directory / "checkpoints" / "best.ckpt").exists()

        whole = ["data.validation_fraction=0.34", f"data.path={texts}"]
        figures = trial.evaluate(run, *whole)
        assert figures["loss"] == pytest.approx(run.loss(), rel=1e-5)
        changed = trial.evaluate(
            run, *whole, prepare=lambda objective: objective.backbone.token_embedding.weight.data.zero_()
        )
        assert changed == figures, "scored once"
        elsewhere = trial.evaluate(
            run,
            *whole,
            "evaluation.max_batches=1",
            prepare=lambda objective: objective.backbone.token_embedding.weight.data.zero_(),
        )
        assert elsewhere["loss"] == pytest.approx(math.log(300), rel=0.01)

    def test_a_run_that_diverges_is_a_result(self, texts: Path, tmp_path: Path) -> None:
        trial = Trial(tmp_path, self.overrides(texts), seed=0)
        wild = ("optimizer.lr=1e30", "schedule=constant", "schedule.warmup_ratio=0", "trainer.gradient_clip_val=null")
        run = trial.train("wild", *wild, "log_every_steps=1")
        assert "diverged" in run.outcome["diverged"]
        assert run.loss() == math.inf
        assert run.seconds > 0
        assert run.outcome["facts"]["network"]


def test_facts_are_those_of_the_run(tiny: list[str], tmp_path: Path) -> None:
    run = compose(*tiny, "max_steps=1234", "position=alibi", "optimizer.lr=0.5", directory=str(tmp_path))
    facts = told_facts(run)
    count = sum(parameter.numel() for parameter in run.objective.parameters())
    assert facts["network"] == (
        f"causal pre-norm Transformer, 2 layers, 4 heads, width 64, positions Alibi: {count:,} parameters"
    )
    assert facts["length"] == "1,234 optimizer steps of 4 sequences of 32 tokens"
    assert facts["objective"] == "CausalLM(label_smoothing=0.0)"
    assert facts["optimizer"].startswith("AdamW(lr=0.5, betas=[0.9, 0.95], eps=1e-08")
    assert facts["vocabulary"] == "300 tokens"
    run.config.trainer.accumulate_grad_batches = 8
    run.config.data.batch_tokens = 512
    assert told_facts(run)["length"] == ("1,234 optimizer steps of 512 tokens, in sequences of at most 32 x 8 batches")
