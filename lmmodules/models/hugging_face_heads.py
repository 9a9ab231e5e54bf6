"""Heads over one state per sequence: the classes of transformers that have them, and what their tensors are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lmmodules.models.classification_head import ClassificationHead

Purpose = Literal["classification", "regression", "multiple_choice", "next_sentence"]


@dataclass(frozen=True)
class SequenceHeadForm:
    """How transformers holds a `ClassificationHead`: as RoBERTa's head, or as BERT's pooler with a layer on top.

    Attributes:
        opener: The class of models with it.
        dense: What the first layer is called there.
        output: What the last layer is called there.
    """

    opener: str
    dense: str
    output: str

    @property
    def names(self) -> dict[str, str]:
        """Our names of the tensors, and theirs."""
        layers = {"dense": self.dense, "output": self.output}
        return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in layers.items() for kind in ("weight", "bias")}


_BERT = SequenceHeadForm("BertForSequenceClassification", "bert.pooler.dense", "classifier")
_ROBERTA = SequenceHeadForm("RobertaForSequenceClassification", "classifier.dense", "classifier.out_proj")
_ESM = SequenceHeadForm("EsmForSequenceClassification", "classifier.dense", "classifier.out_proj")

SEQUENCE_HEADS: dict[str, dict[Purpose, SequenceHeadForm]] = {
    "bert": {
        "classification": _BERT,
        "regression": _BERT,
        "multiple_choice": SequenceHeadForm("BertForMultipleChoice", "bert.pooler.dense", "classifier"),
        "next_sentence": SequenceHeadForm("BertForPreTraining", "bert.pooler.dense", "cls.seq_relationship"),
    },
    "roberta": {
        "classification": _ROBERTA,
        "regression": _ROBERTA,
        "multiple_choice": SequenceHeadForm("RobertaForMultipleChoice", "roberta.pooler.dense", "classifier"),
    },
    "esm": {"classification": _ESM, "regression": _ESM},
}
"""By family and purpose. Others have heads of another form: ELECTRA's has a GELU, GPT-2's is one layer."""


@dataclass(frozen=True)
class SequenceTask:
    """A head over one state per sequence, and what it is for.

    Attributes:
        head: The head.
        purpose: What it is for.
        classes: Names of the classes, of a classification.
    """

    head: ClassificationHead
    purpose: Purpose
    classes: tuple[str, ...] = ()

    def form(self, family: str) -> SequenceHeadForm | None:
        """How a family has it; `None` where it has none of this form.

        Args:
            family: Its `model_type`.
        """
        return SEQUENCE_HEADS.get(family, {}).get(self.purpose)

    def weights(self, family: str) -> dict[str, Tensor]:
        """Its tensors by the names that a family has for them.

        Args:
            family: One that has a form of it.
        """
        state = self.head.state_dict()
        return {theirs: state[ours] for ours, theirs in SEQUENCE_HEADS[family][self.purpose].names.items()}

    def fields(self) -> dict[str, Any]:
        """What a configuration says of it."""
        if self.purpose == "next_sentence":
            return {}
        fields: dict[str, Any] = {"classifier_dropout": self.head.dropout.p}
        if self.purpose == "multiple_choice":
            return fields
        kind = "single_label_classification" if self.purpose == "classification" else self.purpose
        names = dict(enumerate(self.classes or ("LABEL_0",)))
        numbers = {name: number for number, name in names.items()}
        return {**fields, "problem_type": kind, "id2label": names, "label2id": numbers}


def find_sequence_heads(family: str, weights: Mapping[str, Tensor]) -> dict[Purpose, dict[str, Tensor]]:
    """The heads that are among the weights of a model, each by our names.

    Args:
        family: Its `model_type`.
        weights: By the names of transformers.
    """
    return {
        purpose: {ours: weights[theirs] for ours, theirs in form.names.items()}
        for purpose, form in SEQUENCE_HEADS.get(family, {}).items()
        if weights.keys() >= set(form.names.values())
    }
