"""Writing the program that answers a question."""

from __future__ import annotations

from typing import ClassVar

from lmmodules.batch import IGNORED, CausalBatch
from lmmodules.objectives.causal_lm import CausalLM
from lmmodules.parallel import Term


class ProgramSynthesis(CausalLM):
    """Learn to write programs after questions: next-token prediction of the program and its end alone.

    The batches say what is learned: `data=math_pairs` labels the program and the token that ends it, each weighing the
    same over all pairs of a batch and all ranks, and nothing of the question. With `data.target=answer` the same
    network learns to answer directly, the paper's contrast.

    Validation tells `written_exactly`: the share of targets every token of which is the likeliest, so that greedy
    decoding writes them to the letter. A program that is written otherwise may be right as well; `lmm-solve
    checkpoint=RUN generated=100` runs them and compares answers.

    Source:
        Drori et al. 2022, PNAS 119(32): questions answered by programs that a language model writes and Python runs.
        They took a model as it was; the loss on the program alone is that of instruction tuning.
    """

    headline: ClassVar[tuple[str, ...]] = ("written_exactly",)

    def losses(self, batch: CausalBatch) -> dict[str, Term]:
        """Cross-entropy (nats) of the labelled tokens; in evaluation mode, also the share of whole targets."""
        hidden, labels = self.hidden_states(batch), batch["labels"]
        terms = self.cross_entropy(hidden.flatten(0, 1), labels.flatten())
        if self.training:
            return terms
        rows, places = (labels != IGNORED).nonzero(as_tuple=True)
        weight = self.backbone.token_embedding.weight
        logits = self.head(hidden[rows, places], weight)
        wrong = (logits.argmax(-1) != labels[rows, places]).to(logits.dtype)
        mistakes = wrong.new_zeros(labels.shape[0]).index_add(0, rows, wrong)
        asked = (labels != IGNORED).any(1)
        exact = ((mistakes == 0) & asked).sum()
        return terms | {"written_exactly": Term(exact.float(), asked.sum(), weight=0.0)}
