"""What a claim of a paper is: a statement, where it stands, how it is measured, and when it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lmmodules.claims.rules import Rule

if TYPE_CHECKING:
    from lmmodules.trial import Trial

SCALES: dict[str, tuple[str, ...]] = {
    "cpu": ("trainer.accelerator=cpu",),
    "gpu": ("trainer.accelerator=gpu", "precision=bf16"),
}
"""Where a claim is measured, as overrides: `cpu` takes minutes on two cores, `gpu` is closer to the paper's size."""

Curve = list[tuple[float, float]]
"""Points of a curve, by what stands below it."""


@dataclass(frozen=True)
class Measurement:
    """What one seed of a claim came to.

    Args:
        figures: What is compared, by the name of the arm; infinite where a run diverged.
        curves: What is drawn, by the name of the arm.
        tables: What is told besides, row by row, by its heading.
    """

    figures: dict[str, float]
    curves: dict[str, Curve] = field(default_factory=dict)
    tables: dict[str, list[Mapping[str, str | int | float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, as the runs of `lmm-train` that decide it.

    As it stands it trains one run per arm and compares their last validation losses. A claim that is measured in
    another way is a subclass with a `measure` of its own.

    Args:
        paper: Stem of the paper's files, for example `"roberta"`.
        name: Of the claim, for example `"dynamic_masking"`.
        statement: What is claimed, in a sentence.
        source: Paper, section and table.
        reported: The paper's own figure, in words.
        arms: What is compared: the overrides of each run, by name.
        rules: When the claim holds: when all of them do.
        sizes: Overrides of all runs at each scale.
        setting: Overrides of all runs at every scale.
        remarks: What a reader should know about the measurement, in sentences.
        unit: Of the figures.
        curve_label: What stands below the curves.
        needs: What has to be there to measure it, out of `materials.MATERIALS`.
    """

    paper: str
    name: str
    statement: str
    source: str
    reported: str
    arms: Mapping[str, Sequence[str]]
    rules: Sequence[Rule]
    sizes: Mapping[str, Sequence[str]]
    setting: Sequence[str] = ()
    remarks: str = ""
    unit: str = "validation loss, nats per target"
    curve_label: str = "optimizer steps"
    needs: Sequence[str] = ()

    @property
    def stem(self) -> str:
        """Stem of the files of its results, for example `roberta_dynamic_masking`."""
        return f"{self.paper}_{self.name}"

    def overrides(self, scale: str) -> tuple[str, ...]:
        """Overrides of all runs at a scale.

        Args:
            scale: One of `SCALES`.
        """
        return (*self.setting, *SCALES[scale], *self.sizes[scale])

    def measure(self, trial: Trial) -> Measurement:
        """Measure one seed.

        Args:
            trial: Trains the runs of the seed.
        """
        runs = {arm: trial.train(arm, *overrides) for arm, overrides in self.arms.items()}
        return Measurement(
            {arm: run.loss() for arm, run in runs.items()}, {arm: run.curve() for arm, run in runs.items()}
        )
