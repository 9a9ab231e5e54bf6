"""What a checkpoint has, beside its network, that a folder of transformers can say too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmmodules.data import Tokenizer
from lmmodules.data.sequence_layout import LAYOUTS, SequenceLayout, choose_layout
from lmmodules.models import Backbone
from lmmodules.models.hugging_face_heads import SequenceTask
from lmmodules.objectives import Classification, MultipleChoice, Objective, Regression, RoBERTa


def sequence_task(objective: Objective) -> SequenceTask | None:
    """The head of an objective over one state per sequence, if it has one, and what it is for.

    Args:
        objective: The checkpoint's.
    """
    match objective:
        case Classification():
            return SequenceTask(objective.head, "classification", objective.classes)
        case Regression():
            return SequenceTask(objective.head, "regression")
        case MultipleChoice():
            return SequenceTask(objective.head, "multiple_choice")
        case RoBERTa(next_sentence_head=head) if head is not None:
            return SequenceTask(head, "next_sentence")
    return None


def trained_layout(backbone: Backbone, tokenizer: Tokenizer, data: Mapping[str, Any]) -> SequenceLayout | None:
    """The special tokens around the texts that a bidirectional network was trained on; `None` for a causal one.

    Where it never saw two texts, they are laid out as BERT's if it tells segments apart, and else as models with its
    tokenizer have them.

    Args:
        backbone: The network.
        tokenizer: Of the checkpoint.
        data: The node of its data module, as far as there is one.
    """
    if backbone.causal or not (tokenizer.has("bos") and tokenizer.has("eos")):
        return None
    token_types = tells_segments_apart(backbone)
    packing = data.get("packing") or {}
    if "double_separator" in packing:
        return SequenceLayout(2 if packing["double_separator"] else 1, token_types)
    if token_types and "layout" not in data:
        return LAYOUTS["bert"]
    layout = choose_layout(data.get("layout"), tokenizer)
    return replace(layout, token_types=layout.token_types and token_types)


def tells_segments_apart(backbone: Backbone) -> bool:
    """Whether a network reads `token_type_ids`.

    Args:
        backbone: The network.
    """
    return getattr(backbone, "num_token_types", 0) >= 2
