"""Backbones and heads: token ids in, hidden states out, logits on demand."""

from __future__ import annotations

from lmmodules.models.alibi import Alibi, alibi_slopes
from lmmodules.models.auxiliary import AuxiliaryLM
from lmmodules.models.backbone import Backbone
from lmmodules.models.cache import KVCache
from lmmodules.models.detection_head import DetectionHead
from lmmodules.models.heads import LanguageModelHead
from lmmodules.models.hugging_face import from_transformers
from lmmodules.models.hugging_face_backbone import HuggingFaceBackbone
from lmmodules.models.hugging_face_folder import from_hugging_face
from lmmodules.models.positions import Learned, NoPosition, PositionScheme, Rotary, Sinusoidal
from lmmodules.models.relative_positions import RelativeBias
from lmmodules.models.sequence_head import SequenceHead
from lmmodules.models.transformer import Transformer

__all__ = [
    "Alibi",
    "AuxiliaryLM",
    "Backbone",
    "DetectionHead",
    "HuggingFaceBackbone",
    "KVCache",
    "LanguageModelHead",
    "Learned",
    "NoPosition",
    "PositionScheme",
    "RelativeBias",
    "Rotary",
    "SequenceHead",
    "Sinusoidal",
    "Transformer",
    "alibi_slopes",
    "from_hugging_face",
    "from_transformers",
]
