"""How well a model fills gaps in held-out text, and in programs that can be run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lmmodules.data.fim_sentinels import Order, Sentinels, check_order
from lmmodules.errors import InputError, check_whole_number
from lmmodules.evaluation.gaps import KINDS, Gap, gaps_of, similarity
from lmmodules.evaluation.generation import Choice, Writer, generate
from lmmodules.evaluation.human_eval_infilling import HumanEvalInfilling
from lmmodules.evaluation.infill import Middle, check_fills_in, infill_batch, infilling_prompt
from lmmodules.evaluation.middle_loss import middle_loss

if TYPE_CHECKING:
    from lmmodules.data.base import DataModule
    from lmmodules.objectives import Objective

_SHORTEST_CONTEXT = 16
_OVERHEAD = 8  # tokens for the sentinels, and for what cutting may add


class Infilling:
    """Fill gaps in held-out text and compare with what stood there; then, if asked for, HumanEval's.

    Two kinds of gap, as in the paper's benchmarks: a whole line, and a stretch of characters that may begin and end
    within words. The same model is also given the prefix alone, and what it writes there is cut to the length of the
    gap: the difference is what it makes of the suffix.

    Args:
        num_gaps: Gaps of each kind.
        max_gap: Longest gap, in characters.
        max_new_tokens: Tokens that may be written into a gap.
        batch_size: Gaps that are filled together.
        order: See `lmmodules.evaluation.infill.infill_batch`.
        temperature: See `lmmodules.evaluation.generate`, of HumanEval's gaps; those in text take the likeliest token.
        top_p: See `lmmodules.evaluation.generate`, likewise.
        seed: Of the choice of gaps and of the draws.
        human_eval: The benchmark of programs; `None` leaves it out.

    Raises:
        InputError: When a number is less than 1, or there is no such order.

    Source:
        Bavarian et al. 2022, section 2.2.
    """

    def __init__(
        self,
        *,
        num_gaps: int = 100,
        max_gap: int = 80,
        max_new_tokens: int = 64,
        batch_size: int = 16,
        order: Order = "spm",
        temperature: float = 0.2,
        top_p: float | None = 0.95,
        seed: int = 0,
        human_eval: HumanEvalInfilling | None = None,
    ) -> None:
        check_order(order)
        for name, value in (
            ("num_gaps", num_gaps),
            ("max_gap", max_gap),
            ("max_new_tokens", max_new_tokens),
            ("batch_size", batch_size),
        ):
            check_whole_number(name, value, least=1)
        Choice(False, temperature, None, top_p)  # refuses what nothing can be drawn by
        self.num_gaps = num_gaps
        self.max_gap = max_gap
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.order: Order = order
        self.temperature = temperature
        self.top_p = top_p
        self.seed = seed
        self.human_eval = human_eval

    def __call__(self, objective: Objective, data: DataModule) -> dict[str, Any]:
        """Fill the gaps.

        Args:
            objective: One that was trained to fill in.
            data: Prepared, with text held out.

        Returns:
            For the kinds `single_line` and `random_span`: `middle_loss` (nats per token of what stood there),
            `exact_match`, `similarity` (one minus the edit distance over the longer length, characters), `ended`
            (share that the model ended itself), and the first three `_without_suffix`; then the figures of HumanEval.

        Raises:
            InputError: When the objective was not trained to fill in, or no text is held out.
        """
        check_fills_in(objective)
        model = cast("Writer", objective)
        sentinels = sentinels_of(data)
        context = data.max_length - self.max_new_tokens - _OVERHEAD
        if context < _SHORTEST_CONTEXT:
            raise InputError(
                f"`max_new_tokens` must leave room for text within `data.max_length` ({data.max_length}), but is "
                f"{self.max_new_tokens}; use `evaluation.max_new_tokens={max(data.max_length // 4, 1)}`"
            )
        figures: dict[str, Any] = {}
        for kind in KINDS:
            gaps = gaps_of(data, kind, num_gaps=self.num_gaps, max_gap=self.max_gap, context=context, seed=self.seed)
            for name, value in self._figures(model, data, sentinels, gaps).items():
                figures[f"{kind}/{name}"] = value
        if self.human_eval is not None:
            figures |= self.human_eval(lambda pairs: self._fill_what_fits(model, data, sentinels, pairs))
        return figures

    def _figures(
        self, model: Writer, data: DataModule, sentinels: Sentinels, gaps: Sequence[Gap]
    ) -> dict[str, float | int]:
        tokenizer, room = data.tokenizer, data.max_length - self.max_new_tokens
        middles = [tokenizer.encode(gap.middle)[: self.max_new_tokens] for gap in gaps]
        whole = [
            infilling_prompt(tokenizer, sentinels, gap.prefix, gap.suffix, order=self.order, room=room) for gap in gaps
        ]
        alone = [[sentinels.end, *tokenizer.encode(gap.prefix)[1 - room :]] for gap in gaps]
        filled = self._fill(model, data, sentinels, [(gap.prefix, gap.suffix) for gap in gaps], temperature=0.0)
        figures: dict[str, float | int] = {
            "middle_loss": middle_loss(model, whole, middles, batch_size=self.batch_size),
            **compare([middle.text for middle in filled], gaps),
            "ended": float(np.mean([middle.ended for middle in filled])),
            "middle_loss_without_suffix": middle_loss(model, alone, middles, batch_size=self.batch_size),
        }
        without = compare(self._continue(model, data, sentinels, alone, gaps), gaps)
        return figures | {f"{name}_without_suffix": value for name, value in without.items()} | {"gaps": len(gaps)}

    def _fill_what_fits(
        self, model: Writer, data: DataModule, sentinels: Sentinels, pairs: Sequence[tuple[str, str]]
    ) -> list[Middle | None]:
        """As `_fill`, with `None` where the suffix is longer than the context: nobody can shorten a benchmark's."""
        room = data.max_length - self.max_new_tokens

        def fits(prefix: str, suffix: str) -> bool:
            try:
                infilling_prompt(data.tokenizer, sentinels, prefix, suffix, order=self.order, room=room)
            except InputError:
                return False
            return True

        known = {pair: fits(*pair) for pair in set(pairs)}
        fitting = [pair for pair in pairs if known[pair]]
        middles = iter(self._fill(model, data, sentinels, fitting, temperature=self.temperature))
        return [next(middles) if known[pair] else None for pair in pairs]

    def _fill(
        self,
        model: Writer,
        data: DataModule,
        sentinels: Sentinels,
        pairs: Sequence[tuple[str, str]],
        *,
        temperature: float,
    ) -> list[Middle]:
        middles: list[Middle] = []
        for start in range(0, len(pairs), self.batch_size):
            middles += infill_batch(
                model,
                data.tokenizer,
                pairs[start : start + self.batch_size],
                order=self.order,
                max_new_tokens=self.max_new_tokens,
                temperature=temperature,
                top_p=self.top_p,
                seed=self.seed + start,
                sentinels=sentinels,
                max_length=data.max_length,
            )
        return middles

    def _continue(
        self, model: Writer, data: DataModule, sentinels: Sentinels, prompts: list[list[int]], gaps: Sequence[Gap]
    ) -> list[str]:
        """What the model writes after the prefix alone, as much of it as was taken out."""
        texts: list[str] = []
        for start in range(0, len(prompts), self.batch_size):
            written = generate(
                model,
                prompts[start : start + self.batch_size],
                max_new_tokens=self.max_new_tokens,
                temperature=0.0,
                stop_ids=[sentinels.end],
            )
            texts += [data.tokenizer.decode(ids) for ids in written]
        return [text[: len(gap.middle)] for text, gap in zip(texts, gaps, strict=True)]


def sentinels_of(data: DataModule) -> Sentinels:
    """The sentinels that a data module trains with, or those of the usual names."""
    transform = getattr(data, "transform", None)
    names = [getattr(transform, f"{piece}_token", f"<fim_{piece}>") for piece in ("prefix", "suffix", "middle")]
    return Sentinels.of(data.tokenizer, *names)


def compare(texts: Sequence[str], gaps: Sequence[Gap]) -> dict[str, float]:
    """Compare what was written with what stood there.

    Args:
        texts: Of each gap.
        gaps: What was taken out.

    Returns:
        `exact_match` and `similarity`, each the mean over the gaps.
    """
    pairs = [(text, gap.middle) for text, gap in zip(texts, gaps, strict=True)]
    return {
        "exact_match": float(np.mean([text == middle for text, middle in pairs])),
        "similarity": float(np.mean([similarity(text, middle) for text, middle in pairs])),
    }
