"""Evaluations: what a trained objective is worth, and what it writes."""

from lmmodules.evaluation.classification import ClassificationReport
from lmmodules.evaluation.correction import Correction
from lmmodules.evaluation.extrapolation import Extrapolation
from lmmodules.evaluation.generation import generate
from lmmodules.evaluation.harness import Harness, harness_model
from lmmodules.evaluation.infill import infill, infill_batch
from lmmodules.evaluation.infilling import Infilling
from lmmodules.evaluation.infilling_session import InfillingSession
from lmmodules.evaluation.knowledge import KnowledgeProbing
from lmmodules.evaluation.perplexity import Perplexity
from lmmodules.evaluation.synonym_attack import SynonymAttack

__all__ = [
    "ClassificationReport",
    "Correction",
    "Extrapolation",
    "Harness",
    "Infilling",
    "InfillingSession",
    "KnowledgeProbing",
    "Perplexity",
    "SynonymAttack",
    "generate",
    "harness_model",
    "infill",
    "infill_batch",
]
