"""What a prompt learned of a task of SuperGLUE, by that task's own metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_f1_score, multiclass_f1_score

from lmmodules.batch import IGNORED
from lmmodules.errors import InputError
from lmmodules.evaluation.classification import by_class
from lmmodules.evaluation.filling import fill_in
from lmmodules.objectives.p_tuning import PTuning
from lmmodules.objectives.prompted_tasks import ChoicePTuning, VerbalizedPTuning
from lmmodules.parallel import Totals

if TYPE_CHECKING:
    from lmmodules.data.randomness import Int64Array
    from lmmodules.data.samples import SampleSource
    from lmmodules.data.super_glue import SuperGlue
    from lmmodules.objectives import Objective

_NO_LETTERS = re.compile("[^a-z]+")


@dataclass(frozen=True)
class SuperGlueMetrics:
    """Accuracy for every task; F1 as the mean over classes for CB; F1 over all answers and exact match for MultiRC.

    A choice of COPA is the text of the least nats in all. A masked model fills in its tokens one after the other,
    the surest first. A row of WSC is answered with yes when the model, asked whom the pronoun means, names whom the
    row names; see `names_the_same`.

    Args:
        predictions: A file for the answers, a JSON object per row; `None` writes none.

    Source:
        Wang et al. 2019, "SuperGLUE", section 3; `PT-Fewshot/pet` of THUDM/P-tuning.
    """

    predictions: str | None = None

    @torch.inference_mode()
    def __call__(self, objective: Objective, data: SuperGlue) -> dict[str, Any]:
        """Score the validation part of the data.

        Args:
            objective: In evaluation mode.
            data: Prepared.

        Returns:
            `loss`, `accuracy`, the task's other metrics, `majority` (the accuracy of always naming the most frequent
            class), the number of `rows`, and tables by class.

        Raises:
            InputError: When the objective is not P-tuning, or its prompt is of another task.
        """
        if not isinstance(objective, PTuning) or not hasattr(data, "graded_samples"):
            raise InputError(
                "`evaluation=super_glue` needs a checkpoint of P-tuning on a task of SuperGLUE, but this is a "
                f"`{type(objective).__name__}` on other data; use `evaluation=knowledge` for facts"
            )
        if objective.tasks != (data.task,):
            raise InputError(
                f"`data.task` must be that of the checkpoint, {', '.join(objective.tasks)}, but is {data.task}"
            )
        said: list[str] = []
        if data.task == "wsc":
            said = names_said(objective, data)
            names = [example.answers[0] for example in data.examples["validation"]]
            answers = torch.tensor([names_the_same(*pair) for pair in zip(said, names, strict=True)]).long()
        else:
            answers = _answers(objective, data)
        labels = torch.as_tensor(data.graded_samples.classes)
        groups = [example.group for example in data.examples["validation"]]
        if self.predictions is not None:
            self._write(Path(self.predictions), data, answers.tolist(), said)
        return {
            "loss": _loss(objective, data),
            **task_metrics(data.task, answers, labels, groups),
            "rows": len(labels),
            **by_class(answers, labels, tuple(data.classes)),
        }

    def _write(self, path: Path, data: SuperGlue, answers: Sequence[int], said: Sequence[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for place, (example, answer) in enumerate(zip(data.examples["validation"], answers, strict=True)):
                row = {"line": example.group[0], "label": example.label, "prediction": data.classes[answer]}
                if said:
                    row |= {"name": example.answers[0], "said": said[place]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def task_metrics(task: str, answers: Tensor, labels: Tensor, groups: Sequence[Hashable]) -> dict[str, float]:
    """The metrics of a task.

    Args:
        task: Its name.
        answers: (N,) classes.
        labels: (N,) classes.
        groups: (N,) the question that each row is an answer to.

    Returns:
        `accuracy`; for CB `f1`, the mean over classes that occur; for MultiRC `f1`, of the answers that are right among
        all answers (F1a), and `exact_match`, the share of questions whose answers are all judged rightly.
    """
    figures = {"accuracy": float((answers == labels).float().mean())}
    if task == "cb":
        figures["f1"] = float(multiclass_f1_score(answers, labels, 3, average="macro"))
    if task == "multirc":
        right: dict[Hashable, bool] = {}
        for group, answer, label in zip(groups, answers.tolist(), labels.tolist(), strict=True):
            right[group] = right.get(group, True) and answer == label
        figures["f1"] = float(binary_f1_score(answers, labels))
        figures["exact_match"] = sum(right.values()) / len(right)
    return figures


def names_the_same(said: str, name: str) -> bool:
    """Whether all words of one are words of the other; only letters count, and their case does not.

    Args:
        said: By the model.
        name: Of the row.

    Source:
        `WscTaskHelper` in `PT-Fewshot/pet/task_helpers.py` of THUDM/P-tuning, after Raffel et al. 2020 (T5).

    Differences:
        There a model that says nothing has named everybody.
    """
    one, other = ({word for word in _NO_LETTERS.split(text.lower()) if word} for text in (said, name))
    return bool(one and other) and (one <= other or other <= one)


def names_said(objective: PTuning, data: SuperGlue) -> list[str]:
    """What a model writes into the places of WSC's names, of which there is one more than the name has tokens.

    Args:
        objective: In evaluation mode.
        data: Prepared, `data.task=wsc`.
    """
    texts: dict[int, str] = {}
    for rows, batch in _batches(objective, data.graded_samples, data.batch_size):
        tokens, _ = fill_in(objective, batch)
        for row, of_row in zip(rows.tolist(), tokens.tolist(), strict=True):
            texts[row] = data.tokenizer.decode([token for token in of_row if token != IGNORED]).strip()
    return [texts[row] for row in range(len(texts))]


def _answers(objective: PTuning, data: SuperGlue) -> Tensor:
    """(N,) the class of each row, or the choice of each question."""
    samples = data.graded_samples
    answers = torch.zeros(len(samples), dtype=torch.int64)
    for rows, batch in _batches(objective, samples, data.batch_size):
        if isinstance(objective, VerbalizedPTuning):
            chosen = objective.scores(batch).argmax(-1)
        elif isinstance(objective, ChoicePTuning):
            chosen = _nats_of_choices(objective, batch).argmin(-1)
        else:
            raise InputError(
                f"`evaluation=super_glue` needs a checkpoint of `objective=p_tuning_classes` for {data.task}, but this "
                "one was trained over the whole vocabulary, `objective=p_tuning`"
            )
        answers[torch.from_numpy(rows)] = chosen.cpu()
    return answers


def _nats_of_choices(objective: ChoicePTuning, batch: Any) -> Tensor:
    """(B, C) nats of each text. A causal model has every token see those before it as it is."""
    if objective.backbone.causal:
        return objective.scores(batch)[..., 0]
    by_sequence = ("input_ids", "prompt_ids", "labels", "attention_mask")
    flat = {name: batch[name].flatten(0, 1) for name in by_sequence if name in batch}
    _, nats = fill_in(objective, flat, as_labelled=True)
    return nats.view(batch["input_ids"].shape[:2])


def _loss(objective: PTuning, data: SuperGlue) -> float:
    totals = Totals()
    for _, batch in _batches(objective, data.validation_samples, data.batch_size):
        totals.add({"loss": objective.losses(batch)["loss"]})
    return totals.collect()["loss"]


def _batches(objective: PTuning, samples: SampleSource, batch_size: int) -> Iterator[tuple[Int64Array, Any]]:
    """Rows (B,) and their batch, rows of like length together."""
    order = np.argsort(samples.lengths(np.arange(len(samples))), kind="stable")  # little padding
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        fetched = samples[np.zeros_like(rows), rows]
        yield rows, {name: tensor.to(objective.device) for name, tensor in fetched.items()}
