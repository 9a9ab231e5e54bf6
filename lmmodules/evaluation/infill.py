"""Writing what stands between two texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lmmodules.data.fim_sentinels import Order, Sentinels
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError
from lmmodules.evaluation.generation import Stream, Writer, generate
from lmmodules.objectives.base import Objective
from lmmodules.objectives.fim import FIM


class Middle(NamedTuple):
    """What a model wrote into a gap.

    Attributes:
        text: The characters.
        ended: Whether the model ended it itself, by which it says that the suffix may follow; otherwise it was cut
            off at the number of tokens allowed.
    """

    text: str
    ended: bool


def infill(
    model: Writer,
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    *,
    order: Order = "spm",
    max_new_tokens: int = 128,
    temperature: float = 0.2,
    top_k: int | None = None,
    top_p: float | None = 0.95,
    seed: int | None = None,
    sentinels: Sentinels | None = None,
    max_length: int | None = None,
    stream: Stream | None = None,
) -> str:
    """Write what stands between two texts.

    Args:
        model: See `infill_batch`.
        tokenizer: See `infill_batch`.
        prefix: What stands before the gap.
        suffix: What stands behind it.
        order: See `infill_batch`.
        max_new_tokens: See `infill_batch`.
        temperature: See `infill_batch`.
        top_k: See `infill_batch`.
        top_p: See `infill_batch`.
        seed: See `infill_batch`.
        sentinels: See `infill_batch`.
        max_length: See `infill_batch`.
        stream: See `lmmodules.evaluation.generate`.

    Returns:
        The text of the middle.

    Raises:
        InputError: See `infill_batch`.
    """
    return infill_batch(
        model,
        tokenizer,
        [(prefix, suffix)],
        order=order,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        sentinels=sentinels,
        max_length=max_length,
        stream=stream,
    )[0].text


def infill_batch(
    model: Writer,
    tokenizer: Tokenizer,
    gaps: Sequence[tuple[str, str]],
    *,
    order: Order = "spm",
    max_new_tokens: int = 128,
    temperature: float = 0.2,
    top_k: int | None = None,
    top_p: float | None = 0.95,
    seed: int | None = None,
    sentinels: Sentinels | None = None,
    max_length: int | None = None,
    stream: Stream | None = None,
) -> list[Middle]:
    """Fill several gaps at once.

    Prefix and suffix are encoded each by itself, as in training, and writing stops at the end token. Of a prefix that
    is too long for the context the end is kept.

    Args:
        model: An objective that was trained to fill in, or anything else with such a backbone and a head.
        tokenizer: The one it was trained with.
        gaps: Texts before and behind each gap.
        order: `spm` shows the suffix first, `psm` the prefix; a model trained with both knows both. A prefix that
            ends within a word is safer with `psm`, which shows the model where the prefix ends.
        max_new_tokens: Tokens to write at most.
        temperature: See `lmmodules.evaluation.generate`; 0 takes the likeliest token.
        top_k: See `lmmodules.evaluation.generate`.
        top_p: See `lmmodules.evaluation.generate`.
        seed: See `lmmodules.evaluation.generate`.
        sentinels: Ids of the sentinels; `None` looks them up by their usual names.
        max_length: Tokens of the context, what is to be written included; `None` for that of the backbone.
        stream: See `lmmodules.evaluation.generate`.

    Raises:
        InputError: When the model was not trained to fill in, the tokenizer has no sentinels, or a suffix is longer
            than the context.

    Source:
        Bavarian et al. 2022, section 3; the sampling is that of section 2.
    """
    check_fills_in(model)
    sentinels = sentinels or Sentinels.of(tokenizer)
    room = context_room(model, max_length, max_new_tokens)
    prompts = [infilling_prompt(tokenizer, sentinels, *gap, order=order, room=room) for gap in gaps]
    written = generate(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_ids=[sentinels.end],
        seed=seed,
        stream=stream,
    )
    return [Middle(tokenizer.decode(ids), len(ids) < max_new_tokens) for ids in written]


def infilling_prompt(
    tokenizer: Tokenizer, sentinels: Sentinels, prefix: str, suffix: str, *, order: Order, room: int | None
) -> list[int]:
    """The tokens behind which a model writes the middle.

    Args:
        tokenizer: Encodes.
        sentinels: Mark the pieces.
        prefix: Text before the gap; its beginning is left out as far as there is no room for it.
        suffix: Text behind the gap.
        order: See `infill_batch`.
        room: Tokens that the prompt may have, or `None` for as many as it takes.

    Raises:
        InputError: When there is no room for the suffix, or none at all.
    """
    before, behind = tokenizer.encode(prefix), tokenizer.encode(suffix)
    if room is not None:
        sentinels_alone = len(sentinels.prompt([], [], order))
        if room < sentinels_alone:
            raise InputError(
                f"`max_new_tokens` must leave room in the context for the sentinels, {sentinels_alone} tokens, but "
                f"leaves {room}; use a smaller `max_new_tokens`"
            )
        spare = room - sentinels_alone - len(behind)
        if spare < 0:
            raise InputError(
                f"`suffix` must fit into the context, where {room - sentinels_alone} tokens are left for it, but has "
                f"{len(behind)}; shorten it, or lower `max_new_tokens`"
            )
        before = before[max(len(before) - spare, 0) :]
    return sentinels.prompt(before, behind, order)


def context_room(model: Writer, max_length: int | None, max_new_tokens: int) -> int | None:
    """Tokens that a prompt may have, or `None` where there is no limit.

    Args:
        model: Its backbone may have a limit.
        max_length: A limit that is to hold beside it.
        max_new_tokens: Tokens to be kept free.
    """
    limits = [limit for limit in (model.backbone.max_length, max_length) if limit is not None]
    return min(limits) - max_new_tokens if limits else None


def check_fills_in(model: object) -> None:
    """Refuse an objective whose model never saw a sentinel.

    Raises:
        InputError: Saying how to train one that did.
    """
    if isinstance(model, Objective) and not isinstance(model, FIM):
        raise InputError(
            f"filling in needs a model that was trained to, but a `{type(model).__name__}` never saw the sentinels; "
            "train one with `objective=fim`"
        )
