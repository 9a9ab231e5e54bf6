"""Fill-in-the-middle: next-token prediction on documents some of which have their middle at their end."""

from __future__ import annotations

from typing import ClassVar

import torch

from lmmodules.batch import FimBatch, Section
from lmmodules.objectives.causal_lm import CausalLM
from lmmodules.parallel import Term

_WATCHED = {
    Section.UNTOUCHED: "left_to_right_loss",
    Section.PREFIX: "prefix_loss",
    Section.SUFFIX: "suffix_loss",
    Section.MIDDLE: "middle_loss",
    Section.END: "end_loss",
}


class FIM(CausalLM):
    """Predict each token from those before it, and watch apart how well each piece of a document is predicted.

    The loss is that of `CausalLM` over the whole sequence, sentinels included: the data alone teaches to fill in.
    Beside it stand the losses of documents left in their order (`left_to_right_loss`), of the pieces of the others
    (`prefix_loss`, `suffix_loss`, `middle_loss`), and of the end token behind a middle (`end_loss`), by which the
    model says that it has met the suffix. A section that no batch held since the last log is not told.

    Source:
        Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the Middle", section 3.
    """

    batch_type: ClassVar[type] = FimBatch  # type: ignore[assignment]
    needs_causal: ClassVar[bool | None] = True

    def losses(self, batch: FimBatch) -> dict[str, Term]:  # type: ignore[override]
        """Cross-entropy (nats) at every position that has a next token, as a whole and by the section of that token."""
        hidden = self.hidden_states(batch).flatten(0, 1)
        sections = batch["sections"].flatten()
        # Sorted by section, each row passes through the head once, and the device is asked for one count of rows.
        order = sections.argsort()
        counts = torch.bincount(sections, minlength=len(Section)).tolist()
        states = torch.split(hidden.index_select(0, order), counts)
        labels = torch.split(batch["labels"].flatten().index_select(0, order), counts)
        terms = {
            section: self.cross_entropy(rows, targets)
            for section, rows, targets in zip(Section, states, labels, strict=True)
        }
        watched = {
            name: Term(terms[section]["loss"].sum, terms[section]["loss"].count, weight=0.0)
            for section, name in _WATCHED.items()
        }
        return {"loss": _total(terms, "loss"), "accuracy": _total(terms, "accuracy"), **watched}


def _total(terms: dict[Section, dict[str, Term]], name: str) -> Term:
    """All sections together."""
    parts = [term[name] for term in terms.values()]
    count = torch.stack([torch.as_tensor(part.count) for part in parts]).sum()
    return Term(torch.stack([part.sum for part in parts]).sum(), count, weight=parts[0].weight)
