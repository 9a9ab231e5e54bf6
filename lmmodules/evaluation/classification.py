"""What a fine-tuned network answers, class by class."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lmmodules.errors import InputError
from lmmodules.objectives import Classification, Regression, SequenceObjective
from lmmodules.parallel import Totals

if TYPE_CHECKING:
    from lmmodules.data.rows_datamodule import RowsDataModule
    from lmmodules.objectives import Objective


@dataclass(frozen=True)
class ClassificationReport:
    """The metrics of a classification, a regression or a choice among options, and the answers themselves.

    Args:
        predictions: A file for the answers, a JSON object per row in the order of the rows; `None` writes none.
    """

    predictions: str | None = None

    def __call__(self, objective: Objective, data: RowsDataModule) -> dict[str, Any]:
        """Score the validation part of the data.

        Args:
            objective: In evaluation mode.
            data: Prepared.

        Returns:
            `loss`, the metrics of the objective, and the number of `rows`; for classes also the accuracy of the most
            frequent one (`majority`), precision, recall and F1 of each (`classes`), and how many rows of each were
            taken for which (`confusion`).

        Raises:
            InputError: When the objective has no answers to rows, or no rows were held out.
        """
        if not isinstance(objective, SequenceObjective):
            raise InputError(
                f"`evaluation=classification` needs an objective that answers rows, but `{type(objective).__name__}` "
                "does not; use `evaluation=perplexity`"
            )
        if not data.holds_out:
            raise InputError("an evaluation needs rows that are held out, but there are none; use `data.path=FILE`")
        loss, outputs = self._outputs(objective, data)
        labels = torch.from_numpy(data.validation_samples.labels)
        answers = objective.predict(outputs)
        figures: dict[str, Any] = {"loss": loss, **objective.metrics(answers, labels), "rows": len(labels)}
        if isinstance(objective, Classification):
            figures |= by_class(answers, labels, objective.classes)
        if self.predictions is not None:
            self._write(Path(self.predictions), objective, data, outputs)
        return figures

    def _outputs(self, objective: SequenceObjective, data: RowsDataModule) -> tuple[float, Tensor]:
        """The mean loss, and what the head says of every row, in their order."""
        samples = data.validation_samples
        order = np.argsort(samples.lengths(np.arange(len(samples))), kind="stable")  # little padding
        totals, parts = Totals(), []
        with torch.inference_mode():
            for start in range(0, len(order), data.batch_size):
                rows = order[start : start + data.batch_size]
                batch: Any = {
                    name: tensor.to(objective.device) for name, tensor in samples[np.zeros_like(rows), rows].items()
                }
                outputs = objective(batch)
                totals.add(objective.terms(outputs, batch["labels"]))
                parts.append(outputs.float().cpu())
        in_order = torch.empty_like(torch.cat(parts))
        in_order[torch.from_numpy(order)] = torch.cat(parts)
        return totals.collect()["loss"], in_order

    def _write(self, path: Path, objective: SequenceObjective, data: RowsDataModule, outputs: Tensor) -> None:
        rows = data.rows["validation"]
        labels = data.validation_samples.labels.tolist()
        answers = objective.predict(outputs).tolist()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for index, (label, answer) in enumerate(zip(labels, answers, strict=True)):
                row = {"file": rows.files[rows.file_numbers[index]], "row": int(rows.row_numbers[index])}
                if isinstance(objective, Regression):
                    said: dict[str, Any] = {"label": label, "prediction": answer}
                else:
                    names = objective.classes if isinstance(objective, Classification) else range(outputs.shape[1])
                    said = {"label": names[label], "prediction": names[answer]}
                    shares = outputs[index].softmax(-1).tolist()
                    said["probabilities"] = {str(name): share for name, share in zip(names, shares, strict=True)}
                file.write(json.dumps({**row, **said}, ensure_ascii=False) + "\n")


def by_class(answers: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, Any]:
    """Precision, recall and F1 of each class, and the confusion matrix.

    Args:
        answers: (N,) classes.
        labels: (N,) classes.
        classes: Names.

    Returns:
        `majority`, the accuracy of always naming the most frequent class; `classes` and `confusion`, rows of tables.
        What would be divided by nothing is 0.
    """
    count = len(classes)
    confusion = torch.bincount(labels * count + answers, minlength=count**2).view(count, count).numpy()
    right, asked, answered = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    rows = [
        {
            "class": name,
            "precision": float(right[index] / max(answered[index], 1)),
            "recall": float(right[index] / max(asked[index], 1)),
            "f1": float(2 * right[index] / max(asked[index] + answered[index], 1)),
            "rows": int(asked[index]),
        }
        for index, name in enumerate(classes)
    ]
    matrix = [
        {"label": name, **{f"taken for {other}": int(confusion[index, place]) for place, other in enumerate(classes)}}
        for index, name in enumerate(classes)
    ]
    return {"majority": float(asked.max() / asked.sum()), "classes": rows, "confusion": matrix}
