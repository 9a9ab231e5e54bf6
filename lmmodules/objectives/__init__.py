"""Objectives: LightningModules that hold a backbone and turn a batch into a loss. One file per paper."""

from lmmodules.objectives.alibi import TrainShortTestLong
from lmmodules.objectives.base import Objective
from lmmodules.objectives.causal_lm import CausalLM
from lmmodules.objectives.classification import Classification
from lmmodules.objectives.cline import CLINE
from lmmodules.objectives.coco_lm import CocoLM
from lmmodules.objectives.electra import ELECTRA
from lmmodules.objectives.fim import FIM
from lmmodules.objectives.language_model import LanguageModel
from lmmodules.objectives.masked_lm import MaskedLM
from lmmodules.objectives.megatron import Megatron
from lmmodules.objectives.multiple_choice import MultipleChoice
from lmmodules.objectives.p_tuning import PTuning
from lmmodules.objectives.program_synthesis import ProgramSynthesis
from lmmodules.objectives.prompted_tasks import ChoicePTuning, VerbalizedPTuning
from lmmodules.objectives.regression import Regression
from lmmodules.objectives.roberta import RoBERTa
from lmmodules.objectives.sequence_objective import SequenceObjective

__all__ = [
    "CLINE",
    "ELECTRA",
    "FIM",
    "CausalLM",
    "ChoicePTuning",
    "Classification",
    "CocoLM",
    "LanguageModel",
    "MaskedLM",
    "Megatron",
    "MultipleChoice",
    "Objective",
    "PTuning",
    "ProgramSynthesis",
    "Regression",
    "RoBERTa",
    "SequenceObjective",
    "TrainShortTestLong",
    "VerbalizedPTuning",
]
