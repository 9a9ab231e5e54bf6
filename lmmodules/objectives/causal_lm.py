"""Next-token prediction."""

from __future__ import annotations

from typing import ClassVar

from lmmodules.batch import CausalBatch
from lmmodules.objectives.language_model import LanguageModel
from lmmodules.parallel import Term


class CausalLM(LanguageModel):
    """Predict each token from those before it.

    Source:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    """

    batch_type = CausalBatch
    needs_causal: ClassVar[bool | None] = True

    def losses(self, batch: CausalBatch) -> dict[str, Term]:
        """Cross-entropy (nats) at every position that has a next token, and how often the likeliest was right."""
        hidden = self.hidden_states(batch)
        return self.cross_entropy(hidden.flatten(0, 1), batch["labels"].flatten())
