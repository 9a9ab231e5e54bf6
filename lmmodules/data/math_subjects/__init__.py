"""Kinds of questions of the subjects of Drori et al. (2022), each with a program and an answer of its own."""

from __future__ import annotations

from lmmodules.data.math_subjects import (
    calculus,
    counting,
    differential_equations,
    linear_algebra,
    number_theory,
    probability,
)
from lmmodules.data.math_subjects.problem import Draws, Kind, Problem

SUBJECTS: dict[str, tuple[Kind, ...]] = {
    "calculus": calculus.KINDS,
    "differential_equations": differential_equations.KINDS,
    "linear_algebra": linear_algebra.KINDS,
    "probability": probability.KINDS,
    "number_theory": number_theory.KINDS,
    "counting": counting.KINDS,
}
"""Kinds of questions by subject. A kind is known by the name of its function."""

__all__ = ["SUBJECTS", "Draws", "Kind", "Problem"]
