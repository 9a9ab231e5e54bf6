"""One seed of a claim: its runs, trained through the configuration of `lmm-train`, and kept once they are finished."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lmmodules.claims.base import Curve
from lmmodules.composition import compose, compose_config, wrong_input_raised
from lmmodules.run_directory import environment, write_configuration, write_json
from lmmodules.run_lock import only_run_in

if TYPE_CHECKING:
    from lmmodules.objectives import Objective
    from lmmodules.train import Run

OUTCOME = "outcome.json"
WHICH_TEXT = ("data=", "data.path=", "data.suffixes=", "data.validation_fraction=", "data.max_length=")
"""Beginnings of the overrides that decide which text is held out, and in what pieces."""
UNSEEN = ("callbacks.progress=null", "+trainer.enable_progress_bar=false", "callbacks.best=null")
"""What a run of a claim goes without: bars, and a second checkpoint. Nothing of it touches a number."""
TOLD_PARTS = ("objective", "transform", "packing", "optimizer", "schedule")
"""Parts of a configuration that a protocol tells with their arguments."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that has come to its end, read from its directory.

    Args:
        arm: Name of the run within its claim.
        directory: Where the run left everything.
        outcome: What `outcome.json` holds.
    """

    arm: str
    directory: Path
    outcome: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Seconds of training, without validation."""
        return float(self.outcome["seconds"])

    @property
    def overrides(self) -> list[str]:
        """What `lmm-train` is given to train the same, but for its seed."""
        return [override for override in self.outcome["overrides"] if not override.startswith("seed=")]

    @property
    def unigram_entropy(self) -> float | None:
        """The loss without context on the text that was held out, where it is known."""
        path = self.directory / "summary.json"
        known: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
        return known.get("unigram_entropy")

    def loss(self, metric: str = "val/loss") -> float:
        """The last value of a metric; infinite if the run diverged.

        Args:
            metric: A column of `metrics.csv`.
        """
        return math.inf if self.outcome["diverged"] else self.curve(metric)[-1][1]

    def curve(self, metric: str = "val/loss") -> Curve:
        """A metric over optimizer steps.

        Args:
            metric: A column of `metrics.csv`.
        """
        from lmmodules.callbacks import read_metrics

        rows = read_metrics(self.directory / "metrics.csv")
        return [(row["step"], row[metric]) for row in rows if metric in row]

    def kept(self, name: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Measure something on the run, once: what was found is kept beside it.

        Args:
            name: Of the file, without its ending.
            measure: Finds the figures, if nobody has.
        """
        path = self.directory / f"{name}.json"
        if not path.is_file():
            write_json(path, measure())
        figures: dict[str, float] = json.loads(path.read_text())
        return figures


def drop_checkpoints(run: FinishedRun) -> None:
    """Delete the weights of a run of which all that is asked is known: those of a published model are large.

    Args:
        run: Keeps everything else.
    """
    shutil.rmtree(run.directory / "checkpoints", ignore_errors=True)


class Trial:
    """Trains the runs of one seed, each once.

    A run is known by everything that its configuration says: one that is finished is read and not trained again, and
    one whose configuration has changed since is another run.

    Args:
        directory: Where the runs are kept, each in a directory of its own.
        overrides: Of every run, as for `lmm-train`.
        seed: Of every run.
        tell: Called before a run with the name of its arm, and after it with the run as well.
    """

    def __init__(
        self,
        directory: Path,
        overrides: Sequence[str],
        seed: int,
        tell: Callable[[str, FinishedRun | None], None] = lambda arm, run: None,
    ) -> None:
        self.directory = directory
        self.overrides = tuple(overrides)
        self.seed = seed
        self.runs: list[FinishedRun] = []
        """Every run so far."""
        self.tell = tell

    @property
    def text_overrides(self) -> tuple[str, ...]:
        """Overrides that training and scoring must share for the text to be one that was held out."""
        return tuple(override for override in self.overrides if override.startswith(WHICH_TEXT))

    def train(self, arm: str, *overrides: str) -> FinishedRun:
        """Train a run, unless it is finished.

        Args:
            arm: Name of the run within the claim.
            *overrides: What it does not share with the others.
        """
        asked = (*self.overrides, *overrides, f"seed={self.seed}")
        directory = self.directory_of(arm, asked)
        return self.finished(arm, directory, directory, lambda: _train(asked, directory))

    def directory_of(self, arm: str, overrides: Sequence[str]) -> Path:
        """Where a run leaves everything.

        Args:
            arm: Name of the run within the claim.
            overrides: All of its own and of the seed.
        """
        return self.directory / f"{re.sub('[^0-9A-Za-z.]+', '_', arm)}-{fingerprint(overrides)}"

    def finished(self, arm: str, directory: Path, kept: Path, train: Callable[[], None]) -> FinishedRun:
        """A run at its end: as it lies there, or trained now.

        Args:
            arm: Name of the run within the claim.
            directory: Where it leaves everything.
            kept: The directory that is kept from other processes meanwhile.
            train: Leaves `outcome.json` there.

        Raises:
            InputError: When another process writes there.
        """
        if not (directory / OUTCOME).is_file():
            self.tell(arm, None)
            with only_run_in(kept, "runs=runs/again"):
                if not (directory / OUTCOME).is_file():  # another process may just have finished it
                    train()
        run = FinishedRun(arm, directory, json.loads((directory / OUTCOME).read_text()))
        self.runs.append(run)
        self.tell(arm, run)
        return run

    def evaluate(
        self, run: FinishedRun, *overrides: str, prepare: Callable[[Objective], None] = lambda objective: None
    ) -> dict[str, float]:
        """Score a run as `lmm-evaluate` does, once.

        Args:
            run: One that this trial trained.
            *overrides: As for `lmm-evaluate`, but for `checkpoint`.
            prepare: Changes the objective before it is scored.

        Returns:
            The figures of the evaluation; infinite losses if the run diverged.
        """
        if run.outcome["diverged"]:
            return {"loss": math.inf}
        with wrong_input_raised():
            name = f"evaluation-{_digest(OmegaConf.to_yaml(compose_config('evaluate', *overrides)))}"
            return run.kept(name, lambda: _evaluate(run.directory, overrides, prepare))


def _train(overrides: Sequence[str], directory: Path) -> None:
    run = compose(*overrides, *UNSEEN, directory=str(directory))
    write_configuration(directory, run.config, overrides)
    diverged = ""
    begin = time.perf_counter()
    try:
        seconds = run.fit()["seconds"]
    except FloatingPointError as error:
        diverged = str(error)
        seconds = round(time.perf_counter() - begin, 3)
    write_json(
        directory / OUTCOME,
        {
            "overrides": list(overrides),
            "diverged": diverged,
            "seconds": seconds,
            "facts": told_facts(run),
            "environment": environment(int(run.config.seed)),
        },
    )


def _evaluate(directory: Path, overrides: Sequence[str], prepare: Callable[[Objective], None]) -> dict[str, float]:
    from lmmodules.evaluate import score

    return score(compose_config("evaluate", *overrides), directory, prepare=prepare)[1]


def told_facts(run: Run) -> dict[str, str]:
    """What a run is, in words and numbers taken from the run itself.

    Args:
        run: Built, trained or not.
    """
    config = run.config
    model = config.model
    words = ["causal" if model.causal else "bidirectional"]
    if "pre_norm" in model:
        words.append("pre-norm" if model.pre_norm else "post-norm")
    words.append(_class_name(model._target_))
    sizes = [f"{model[key]} {word}" for key, word in (("num_layers", "layers"), ("num_heads", "heads")) if key in model]
    if "hidden_size" in model:
        sizes.append(f"width {model.hidden_size}")
    if "position" in model:
        sizes.append(f"positions {_class_name(model.position._target_)}")
    parameters = sum(parameter.numel() for parameter in run.objective.parameters())
    batches = int(config.trainer.accumulate_grad_batches)
    per_step = f"{config.data.batch_size} sequences of {config.data.max_length} tokens"
    if config.data.get("batch_tokens") is not None:
        per_step = f"{config.data.batch_tokens} tokens, in sequences of at most {config.data.max_length}"
    accumulated = f" x {batches} batches" if batches > 1 else ""
    facts = {
        "network": f"{' '.join(words)}, {', '.join(sizes)}: {parameters:,} parameters",
        "length": f"{config.max_steps:,} optimizer steps of {per_step}{accumulated}",
    }
    facts |= {part: told_part(config[part]) for part in TOLD_PARTS if config.get(part) is not None}
    return facts | run.data.describe()


def told_part(node: DictConfig) -> str:
    """A part of a configuration as one would build it by hand, for example `Masking(mask_probability=0.15)`."""
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    given = {str(key): value for key, value in plain.items() if value is not None and not isinstance(value, dict)}
    arguments = ", ".join(f"{key}={value}" for key, value in given.items() if not key.startswith("_"))
    return f"{_class_name(node._target_)}({arguments})"


def _class_name(target: str) -> str:
    return target.rpartition(".")[2]


def fingerprint(overrides: Sequence[str]) -> str:
    """Eight digits that differ where the configuration of a run does."""
    with wrong_input_raised():
        # Unresolved, so that neither the time of day nor the place of the run is part of it.
        return _digest(OmegaConf.to_yaml(compose_config("train", *overrides)))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
