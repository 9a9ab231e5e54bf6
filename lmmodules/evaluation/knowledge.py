"""How many facts a prompt gets out of a language model, relation by relation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lmmodules.errors import InputError
from lmmodules.losses import token_cross_entropy
from lmmodules.objectives.answers import among
from lmmodules.objectives.p_tuning import PTuning
from lmmodules.parallel import Term, Totals

if TYPE_CHECKING:
    from lmmodules.data.knowledge_probes import KnowledgeProbes
    from lmmodules.objectives import Objective


@dataclass(frozen=True)
class KnowledgeProbing:
    """P@1: how often the likeliest token, among those that may be answers, is the object of the fact.

    Args:
        predictions: A file for the answers, a JSON object per fact; `None` writes none.

    Source:
        Petroni et al. 2019, section 4.5; `LAMA/p_tuning/modeling.py` of THUDM/P-tuning.
    """

    predictions: str | None = None

    def __call__(self, objective: Objective, data: KnowledgeProbes) -> dict[str, Any]:
        """Score the validation part of the data.

        Args:
            objective: In evaluation mode.
            data: Prepared.

        Returns:
            `macro`, the mean over relations of P@1; `micro`, that over facts; `macro_by_object`, the mean over
            relations of the mean over their objects; `majority`, the macro of always answering the most frequent
            object of training; `loss`; and all but the loss for each of the `relations`.

        Raises:
            InputError: When the objective is not P-tuning, or its prompts are of other relations.
        """
        if type(objective) is not PTuning:
            raise InputError(
                f"`evaluation=knowledge` needs a checkpoint of `objective=p_tuning`, but this is a "
                f"`{type(objective).__name__}`; use `evaluation=super_glue` for the tasks of SuperGLUE"
            )
        if tuple(data.relations) != objective.tasks:
            raise InputError(
                f"`data.relations` must be those of the checkpoint, [{','.join(objective.tasks)}], but are "
                f"[{','.join(data.relations)}]; use `data.relations=null`"
            )
        loss, answers = self._answers(objective, data)
        samples = data.validation_samples
        facts = data.facts["validation"]
        gold = [next(label for label in row.labels if label >= 0) for row in samples.rows]  # type: ignore[attr-defined]
        hits = [answer == label for answer, label in zip(answers, gold, strict=True)]
        task_ids = samples.task_ids.tolist()  # type: ignore[attr-defined]
        by_relation = [
            [(hit, fact.object) for hit, fact, owner in zip(hits, facts, task_ids, strict=True) if owner == task]
            for task in range(len(data.relations))
        ]
        if self.predictions is not None:
            self._write(Path(self.predictions), data, answers, hits)
        return {"loss": loss, **summary(data.relations, by_relation, data.majority())}

    def _answers(self, objective: PTuning, data: KnowledgeProbes) -> tuple[float, list[int]]:
        samples = data.validation_samples
        order = np.argsort(samples.lengths(np.arange(len(samples))), kind="stable")  # little padding
        totals, answers = Totals(), np.zeros(len(samples), dtype=np.int64)
        with torch.inference_mode():
            for start in range(0, len(order), data.batch_size):
                rows = order[start : start + data.batch_size]
                fetched = samples[np.zeros_like(rows), rows]
                batch: Any = {name: tensor.to(objective.device) for name, tensor in fetched.items()}
                labels, trained, scored = objective.answer_logits(batch)
                totals.add({"loss": Term(*token_cross_entropy(trained, labels))})
                answers[rows] = among(scored, batch.get("candidate_ids")).argmax(-1).cpu().numpy()
        return totals.collect()["loss"], answers.tolist()

    def _write(self, path: Path, data: KnowledgeProbes, answers: Sequence[int], hits: Sequence[bool]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        owners = data.validation_samples.task_ids.tolist()  # type: ignore[attr-defined]
        with path.open("w", encoding="utf-8") as file:
            for fact, owner, answer, hit in zip(data.facts["validation"], owners, answers, hits, strict=True):
                row = {
                    "relation": data.relations[owner],
                    "subject": fact.subject,
                    "object": fact.object,
                    "answer": data.tokenizer.decode([answer]).strip(),
                    "right": hit,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def summary(
    relations: Sequence[str], by_relation: Sequence[Sequence[tuple[bool, str]]], majority: Sequence[float]
) -> dict[str, Any]:
    """The figures of hits.

    Args:
        relations: Names.
        by_relation: Of each relation, whether each fact was a hit, and its object.
        majority: P@1 of each relation's most frequent object.
    """
    rows: list[dict[str, Any]] = []
    for name, hits, share in zip(relations, by_relation, majority, strict=True):
        if not hits:
            continue
        objects: dict[str, list[bool]] = {}
        for hit, answer in hits:
            objects.setdefault(answer, []).append(hit)
        rows.append(
            {
                "relation": name,
                "precision_at_1": fmean(hit for hit, _ in hits),
                "by_object": fmean(fmean(of_one) for of_one in objects.values()),
                "majority": share,
                "facts": len(hits),
            }
        )
    return {
        "macro": fmean(row["precision_at_1"] for row in rows),
        "micro": sum(row["precision_at_1"] * row["facts"] for row in rows) / sum(row["facts"] for row in rows),
        "macro_by_object": fmean(row["by_object"] for row in rows),
        "majority": fmean(row["majority"] for row in rows),
        "facts": sum(row["facts"] for row in rows),
        "relations": rows,
    }
