"""Rows of a template as token ids, places of pseudo-tokens, and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lmmodules.batch import IGNORED
from lmmodules.data.prompt_template import Anchor, Input, PromptTemplate, PseudoTokens, Target
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError


@dataclass
class PromptRow:
    """A row that was laid out.

    Args:
        input_ids: Tokens; any at a pseudo-token.
        prompt_ids: Row of the table of prompts, -1 at tokens.
        labels: The answer at the positions that predict it.
    """

    input_ids: list[int] = field(default_factory=list)
    prompt_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens that nothing is asked of.

        Args:
            tokens: Their ids.
        """
        self.input_ids += tokens
        self.prompt_ids += [-1] * len(tokens)
        self.labels += [IGNORED] * len(tokens)


@dataclass(frozen=True)
class PromptLayout:
    """How rows are laid out for a backbone.

    A masked backbone reads `<cls> ... <mask> ... <sep>` and predicts the answer at the masks. A causal one reads what
    stands before the answer, and nothing else, and predicts it at the last position of that.

    Args:
        tokenizer: Of the text.
        causal: Kind of the backbone.
        max_length: Most tokens of a row, T.

    Source:
        `LAMA/p_tuning/modeling.py:get_query` of THUDM/P-tuning.
    """

    tokenizer: Tokenizer
    causal: bool
    max_length: int

    def rows(
        self,
        template: PromptTemplate,
        columns: Mapping[str, Sequence[str]],
        targets: Sequence[Sequence[int]],
        *,
        first_prompt: int = 0,
        num_masks: Sequence[int] | None = None,
    ) -> list[PromptRow]:
        """Lay out rows.

        Args:
            template: For a causal backbone without anything behind the target.
            columns: Values of each field, row by row.
            targets: Tokens of each answer.
            first_prompt: Row of the first pseudo-token in the table of prompts.
            num_masks: Masks of each row, where they are to be more than its tokens; a causal model has none.

        Raises:
            InputError: When a row is longer than `max_length` and has nothing that may be shortened.
        """
        num_rows = len(targets)
        encoded: list[list[list[int]]] = []
        for part in template.parts:
            if isinstance(part, Input):
                values = columns[part.field]
                encoded.append(self.tokenizer.encode_batch([f"{part.space}{value}" for value in values]))
            elif isinstance(part, Anchor):
                encoded.append([self.tokenizer.encode(part.text)] * num_rows)
            else:
                encoded.append([])
        laid_out = []
        for index, target in enumerate(targets):
            texts = [column[index] if column else [] for column in encoded]
            masks = max(len(target), 0 if num_masks is None else num_masks[index])
            self._shorten(template, texts, masks)
            laid_out.append(self._row(template, texts, target, masks, first_prompt))
        return laid_out

    def _shorten(self, template: PromptTemplate, texts: list[list[int]], num_masks: int) -> None:
        specials = sum(not isinstance(part, (Anchor, Input, PseudoTokens, Target)) for part in template.parts)
        fixed = template.num_prompt_tokens + specials + (num_masks - 1 if self.causal else num_masks + 2)
        excess = fixed + sum(map(len, texts)) - self.max_length
        parts = template.parts
        while excess > 0:
            may = [place for place, part in enumerate(parts) if isinstance(part, Input) and part.shorten]
            longest = max(may, key=lambda place: len(texts[place]), default=None)
            if longest is None or not texts[longest]:
                raise InputError(
                    f"`data.max_length` must be at least {self.max_length + excess} for the longest row, but is "
                    f"{self.max_length}; use `data.max_length={self.max_length + excess}`, or mark a field of the "
                    "template that may be cut, as {passage|shorten}"
                )
            others = sorted((len(texts[place]) for place in may if place != longest), reverse=True)
            cut = min(excess, max(1, len(texts[longest]) - (others[0] if others else 0)))
            texts[longest] = texts[longest][: len(texts[longest]) - cut]
            excess -= cut

    def _row(
        self, template: PromptTemplate, texts: list[list[int]], target: Sequence[int], num_masks: int, first_prompt: int
    ) -> PromptRow:
        row = PromptRow()
        filler = self.tokenizer.eos_id
        if not self.causal:
            row.extend([self.tokenizer.bos_id])
        prompt = first_prompt
        for part, tokens in zip(template.parts, texts, strict=True):
            if isinstance(part, PseudoTokens):
                row.extend([filler] * part.count)
                row.prompt_ids[-part.count :] = range(prompt, prompt + part.count)
                prompt += part.count
            elif isinstance(part, Target) and self.causal:
                row.extend(target[:-1])
                row.labels[-len(target) :] = target
            elif isinstance(part, Target):
                row.extend([self.tokenizer.mask_id] * num_masks)
                row.labels[-num_masks:] = [*target, *[IGNORED] * (num_masks - len(target))]
            else:
                row.extend(tokens if isinstance(part, (Anchor, Input)) else [self.tokenizer.eos_id])
        if not self.causal:
            row.extend([self.tokenizer.eos_id])
        return row
