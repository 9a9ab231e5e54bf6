"""Evaluations: what a trained objective is worth, and what it writes."""

from lmmodules.evaluation.generation import generate
from lmmodules.evaluation.perplexity import Perplexity

__all__ = ["Perplexity", "generate"]
