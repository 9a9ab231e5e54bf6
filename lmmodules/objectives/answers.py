"""Losses and scores of answers to prompts, as pure functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodules.batch import IGNORED


def among(logits: Tensor, candidate_ids: Tensor | None) -> Tensor:
    """Logits (..., V) with minus infinity at tokens that may not be answers.

    Args:
        logits: Of the whole vocabulary.
        candidate_ids: (C,) tokens that may; `None` where all may.
    """
    if candidate_ids is None:
        return logits
    allowed = torch.full_like(logits, -torch.inf)
    allowed[..., candidate_ids] = logits[..., candidate_ids]
    return allowed


def class_logits(logits: Tensor, verbalizer: Tensor) -> Tensor:
    """Logits of classes (..., C): of each class the mean over the tokens that say it.

    Args:
        logits: (..., V).
        verbalizer: (C, W) tokens that say each class, -1 where there are fewer.

    Source:
        `PT-Fewshot/data_utils/task_pvps.py:convert_mlm_logits_to_cls_logits` of THUDM/P-tuning.
    """
    said = (verbalizer >= 0).to(logits.dtype)  # (C, W)
    chosen = logits[..., verbalizer.clamp(min=0)] * said  # (..., C, W)
    return chosen.sum(-1) / said.sum(-1)


def answer_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Nats of each sequence's answer, (N, 2): their sum, and their mean over the tokens of the answer.

    Args:
        logits: (M, V) at every labelled position, sequence after sequence.
        labels: (N, T), `IGNORED` where nothing is asked.
    """
    asked = labels != IGNORED
    nats = F.cross_entropy(logits.float(), labels[asked], reduction="none")
    owner = asked.nonzero()[:, 0]
    total = nats.new_zeros(len(labels)).index_add(0, owner, nats)
    return torch.stack([total, total / asked.sum(1).clamp(min=1)], dim=1)


def choice_hinge(nats: Tensor, classes: Tensor, margin: float = 1.0) -> tuple[Tensor, Tensor]:
    """Asks that the right answer costs `margin` nats less than every other one.

    Args:
        nats: (B, C) of each answer.
        classes: (B,) which is right, `IGNORED` for a question that does not count.
        margin: In nats.

    Returns:
        The sum over questions of the mean over the wrong answers of max(0, margin + right - wrong), and the number of
        questions.

    Source:
        Schick & Schütze 2021, "It's Not Just Size That Matters", appendix; `CopaTaskHelper` in `PT-Fewshot/pet` of
        THUDM/P-tuning.
    """
    counted = classes != IGNORED
    nats, classes = nats[counted], classes[counted]
    right = nats.gather(1, classes[:, None])
    losses = (margin + right - nats).clamp(min=0)
    is_wrong = torch.ones_like(losses).scatter(1, classes[:, None], 0.0)
    return (losses * is_wrong).sum() / max(nats.shape[1] - 1, 1), counted.sum()
