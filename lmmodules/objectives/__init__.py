"""Objectives: LightningModules that hold a backbone and turn a batch into a loss. One file per paper."""

from lmmodules.objectives.base import Objective
from lmmodules.objectives.causal_lm import CausalLM
from lmmodules.objectives.language_model import LanguageModel
from lmmodules.objectives.masked_lm import MaskedLM

__all__ = ["CausalLM", "LanguageModel", "MaskedLM", "Objective"]
