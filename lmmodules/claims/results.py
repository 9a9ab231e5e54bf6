"""What measuring a claim came to, over its seeds: kept as JSON, from which pages and pictures are drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmmodules.claims.base import Claim, Curve, Measurement
from lmmodules.claims.materials import without_paths
from lmmodules.claims.rules import Finding, mean, standard_deviation
from lmmodules.run_directory import environment as this_environment
from lmmodules.run_directory import write_json

if TYPE_CHECKING:
    from lmmodules.trial import FinishedRun

TOLD_ENVIRONMENT = ("device", "threads", "python", "git_commit")


@dataclass(frozen=True)
class Result:
    """A claim, measured.

    Args:
        claim: Whose figures these are.
        scale: At which they were measured.
        seeds: The measurement of each seed.
        overrides: What `lmm-train` is given for each run, but for the seed, by the name of its arm.
        facts: What each run was, in words, by the name of its arm.
        unigram_entropy: The loss without context on the text that was held out, where it is known.
        seconds: Of training, all runs together, without validation.
        environment: Device, threads, versions and commit.
    """

    claim: Claim
    scale: str
    seeds: Mapping[int, Measurement]
    overrides: Mapping[str, Sequence[str]]
    facts: Mapping[str, Mapping[str, str]]
    unigram_entropy: float | None
    seconds: float
    environment: Mapping[str, Any]

    @classmethod
    def of_runs(cls, claim: Claim, scale: str, seeds: Mapping[int, Measurement], runs: Sequence[FinishedRun]) -> Result:
        """Gather what the runs of all seeds say of themselves.

        Args:
            claim: That was measured.
            scale: At which.
            seeds: The measurement of each seed.
            runs: The runs of all seeds.
        """
        environment = runs[0].outcome["environment"] if runs else this_environment(0)
        return cls(
            claim=claim,
            scale=scale,
            seeds=seeds,
            overrides={run.arm: run.overrides for run in runs},
            facts={
                run.arm: {name: without_paths(fact, claim.needs) for name, fact in run.outcome["facts"].items()}
                for run in runs
            },
            unigram_entropy=next((run.unigram_entropy for run in runs if run.unigram_entropy is not None), None),
            seconds=round(sum(run.seconds for run in runs), 1),
            environment={key: environment[key] for key in TOLD_ENVIRONMENT} | environment["packages"],
        )

    @property
    def stem(self) -> str:
        """Stem of its files."""
        return file_stem(self.claim, self.scale)

    @property
    def arms(self) -> list[str]:
        """Names of the figures, in the order of the claim."""
        return list(next(iter(self.seeds.values())).figures)

    def figures(self, arm: str) -> list[float]:
        """A figure in every seed.

        Args:
            arm: Its name.
        """
        return [measurement.figures[arm] for measurement in self.seeds.values()]

    def curves(self) -> dict[str, list[Curve]]:
        """The curves of every seed, by the name of their arm."""
        arms = dict.fromkeys(arm for measurement in self.seeds.values() for arm in measurement.curves)
        return {arm: [measurement.curves.get(arm, []) for measurement in self.seeds.values()] for arm in arms}

    def mean(self, arm: str) -> float:
        """Mean of a figure over the seeds."""
        return mean(self.figures(arm))

    def standard_deviation(self, arm: str) -> float | None:
        """Standard deviation of a figure over the seeds."""
        return standard_deviation(self.figures(arm))

    def findings(self) -> list[Finding]:
        """What each rule of the claim says."""
        return [rule.judge([measurement.figures for measurement in self.seeds.values()]) for rule in self.claim.rules]

    @property
    def held(self) -> bool:
        """Whether all rules are met."""
        return all(finding.held for finding in self.findings())

    def write(self, directory: Path) -> Path:
        """Write the JSON file; infinities, which JSON does not have, become null.

        Args:
            directory: Where the results are.

        Returns:
            The file.
        """
        path = directory / f"{self.stem}.json"
        write_json(
            path,
            {
                "paper": self.claim.paper,
                "claim": self.claim.name,
                "scale": self.scale,
                "held": self.held,
                "findings": [_finite(asdict(finding)) for finding in self.findings()],
                "seeds": {
                    str(seed): {
                        "figures": _finite(measurement.figures),
                        "curves": {
                            arm: [[x, float(f"{y:.6g}")] for x, y in curve] for arm, curve in measurement.curves.items()
                        },
                        **({"tables": measurement.tables} if measurement.tables else {}),
                    }
                    for seed, measurement in self.seeds.items()
                },
                "unigram_entropy": self.unigram_entropy,
                "seconds": self.seconds,
                "overrides": {arm: list(overrides) for arm, overrides in self.overrides.items()},
                "facts": {arm: dict(facts) for arm, facts in self.facts.items()},
                "environment": dict(self.environment),
            },
        )
        return path

    @classmethod
    def read(cls, claim: Claim, scale: str, directory: Path) -> Result | None:
        """Read the JSON file of a claim; `None` if it has not been measured.

        Args:
            claim: Whose result is wanted.
            scale: At which.
            directory: Where the results are.
        """
        path = directory / f"{file_stem(claim, scale)}.json"
        if not path.is_file():
            return None
        content = json.loads(path.read_text())
        seeds = {
            int(seed): Measurement(
                {arm: math.inf if value is None else value for arm, value in measured["figures"].items()},
                {arm: [(x, y) for x, y in curve] for arm, curve in measured["curves"].items()},
                measured.get("tables", {}),
            )
            for seed, measured in content["seeds"].items()
        }
        kept = {key: content[key] for key in ("overrides", "facts", "unigram_entropy", "seconds", "environment")}
        return cls(claim, scale, seeds, **kept)


def file_stem(claim: Claim, scale: str) -> str:
    """Stem of the files of a result: that of the claim, with the scale unless that is `cpu`.

    Args:
        claim: That was measured.
        scale: At which.
    """
    return claim.stem if scale == "cpu" else f"{claim.stem}_{scale}"


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
