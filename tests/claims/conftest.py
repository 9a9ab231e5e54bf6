from __future__ import annotations

import math

import pytest

from lmmodules.claims import Below, Claim, Measurement, NotAbove
from lmmodules.claims.results import Result


@pytest.fixture
def claim() -> Claim:
    """A claim that nobody made."""
    return Claim(
        paper="shoes",
        name="left_first",
        statement="Who puts on the left shoe first walks faster.",
        source="Walker 1901, table 3",
        reported="4.2 against 4.4 seconds.",
        arms={"left": (), "right": ("transform.num_static_masks=1",)},
        rules=(Below("left", "right"), NotAbove("right", "left", tolerance=0.5)),
        setting=("objective=masked_lm",),
        sizes={"cpu": ("max_steps=3",), "gpu": ("max_steps=9",)},
        remarks="Both went the same way.",
        unit="seconds",
    )


@pytest.fixture
def result(claim: Claim) -> Result:
    """Three seeds of it: means 2 and 3, standard deviations 1 and 2, differences -1, 0 and -2."""
    figures = {0: (1.0, 2.0), 1: (2.0, 2.0), 5: (3.0, 5.0)}
    return Result(
        claim=claim,
        scale="cpu",
        seeds={
            seed: Measurement({"left": left, "right": right}, {"left": [(1.0, left + 1), (3.0, left)], "right": []})
            for seed, (left, right) in figures.items()
        },
        overrides={"left": ["a=1", "b=[1,2]"], "right": ["a=1", "b=[1,2]", "c=null"]},
        facts={
            "left": {"network": "of straps", "masks": "New()"},
            "right": {"network": "of straps", "masks": "Old(1)"},
        },
        unigram_entropy=4.5,
        seconds=61.25,
        environment={"device": "a foot", "git_commit": None, "torch": "2.11"},
    )


@pytest.fixture
def diverged(result: Result) -> Result:
    """The same, but the right shoe was lost in one seed."""
    lost = {seed: Measurement(dict(measured.figures), measured.curves) for seed, measured in result.seeds.items()}
    lost[5].figures["right"] = math.inf
    return Result(**{**vars(result), "seeds": lost})
