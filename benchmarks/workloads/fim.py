"""Character-level fill-in-the-middle of packed blocks, against decoding, cutting and encoding every document.

The peer is the usual loop: each document of a block is decoded, its text cut twice, the pieces encoded by the same Rust
tokenizer, put in order and trimmed. With the same draws both must give the same tokens, every one of them. Both take
blocks that are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle, islice
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from benchmarks.training import corpus
from benchmarks.workload import OURS, Agreement, Candidate, Case, Comparison, Grid, Step, Workload
from lmmodules.data import Blocks, SampleKeys, Tokenizer
from lmmodules.data.fim import FillInTheMiddle
from lmmodules.data.fim_sentinels import Sentinels

PEER = "decode, cut, encode"
SENTINELS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
NUM_BATCHES = 16
# rate: goal, floor
GOALS = {0.5: (10.0, 6.0), 0.9: (10.0, 6.0)}

Batches = list[tuple[Blocks, SampleKeys]]


@dataclass(frozen=True)
class FimTransform(Workload):
    """See the module."""

    title: ClassVar[str] = "Fill-in-the-middle of a batch"
    grid: ClassVar[Grid] = {"vocab": (8192,), "rate": (0.5, 0.9)}

    length: int = 2048
    batch_size: int = 8

    def cases(self, grid: Grid) -> Iterator[Case]:
        """One for each size of the vocabulary and each rate."""
        for vocab_size in grid["vocab"]:
            for rate in grid["rate"]:
                where = (vocab_size, float(rate))
                candidates = (
                    Candidate(OURS, partial(self.our_step, *where)),
                    Candidate(PEER, partial(self.their_step, *where), agreement=partial(self.agreement, *where)),
                )
                yield Case(
                    f"rate {rate:g}" + ("" if vocab_size == 8192 else f", vocabulary {vocab_size:,}"),
                    candidates,
                    (Comparison(PEER, *GOALS.get(rate, (None, None))),),
                    self.batch_size * self.length,
                    counts_operations=False,
                    told_by="functions",
                )

    def our_step(self, vocab_size: int, rate: float) -> Step:
        """One batch."""
        tokenizer, batches = self.blocks(vocab_size)
        transform = FillInTheMiddle(fim_rate=rate).bind(tokenizer)
        turns = cycle(batches)

        def step() -> None:
            transform(*next(turns))

        return step

    def their_step(self, vocab_size: int, rate: float) -> Step:
        """One batch."""
        tokenizer, batches = self.blocks(vocab_size)
        turns = cycle(batches)

        def step() -> None:
            decode_cut_encode(tokenizer, *next(turns), rate)

        return step

    def agreement(self, vocab_size: int, rate: float) -> list[Agreement]:
        """The share of tokens that differ."""
        tokenizer, batches = self.blocks(vocab_size)
        transform = FillInTheMiddle(fim_rate=rate).bind(tokenizer)
        differing = [
            float((transform(*batch)["input_ids"].numpy() != decode_cut_encode(tokenizer, *batch, rate)).mean())
            for batch in batches
        ]
        return [Agreement("share of tokens", float(np.mean(differing)), 0.0)]

    def blocks(self, vocab_size: int) -> tuple[Tokenizer, Batches]:
        """The tokenizer, and some batches of blocks as a transform gets them."""
        return _blocks(vocab_size, self.length, self.batch_size)


@cache
def _blocks(vocab_size: int, length: int, batch_size: int) -> tuple[Tokenizer, Batches]:
    # The transform reads one token more than it yields, for the last position to predict.
    data = corpus(vocab_size, length + 1, batch_size, special_tokens=SENTINELS)
    batches = []
    for number, batch in enumerate(islice(data.train_dataloader(), NUM_BATCHES)):
        tokens = batch["input_ids"].numpy().astype(np.uint16)
        indices = np.arange(number * batch_size, (number + 1) * batch_size)
        batches.append((Blocks(tokens), SampleKeys(0, np.zeros_like(indices), indices)))
    return data.tokenizer, batches


def decode_cut_encode(tokenizer: Tokenizer, blocks: Blocks, keys: SampleKeys, rate: float) -> npt.NDArray[np.int64]:
    """What everybody writes, with the draws of ours.

    Args:
        tokenizer: With sentinels.
        blocks: (B, T + 1) tokens of documents behind one another.
        keys: Of the samples.
        rate: Share of the documents whose middle is moved; half of them suffix first.

    Returns:
        (B, T) token ids.
    """
    sentinels = Sentinels.of(tokenizer)
    batch_size, length = blocks.tokens.shape
    most = int((blocks.tokens == sentinels.end).sum(1).max()) + 1
    draws = keys.uniform("fim/context", most * 4).reshape(batch_size, most, 4)
    moved = np.full((batch_size, length), tokenizer.pad_id, dtype=np.int64)
    for row, tokens in enumerate(blocks.tokens):
        ids: list[int] = []
        start = 0
        for number, stop in enumerate([*np.flatnonzero(tokens == sentinels.end).tolist(), length]):
            document = tokens[start:stop].tolist()
            if document and draws[row, number, 0] < rate:
                text = tokenizer.backend.decode(document, skip_special_tokens=False)
                first, second = sorted(int(draw * (len(text) + 1)) for draw in draws[row, number, 2:])
                prefix, middle, suffix = (
                    tokenizer.backend.encode(piece, add_special_tokens=False).ids
                    for piece in (text[:first], text[first:second], text[second:])
                )
                if draws[row, number, 1] < 0.5:
                    ids += [sentinels.prefix, sentinels.suffix, *suffix, sentinels.middle, *prefix, *middle]
                else:
                    ids += [sentinels.prefix, *prefix, sentinels.suffix, *suffix, sentinels.middle, *middle]
            else:
                ids += document
            if stop < length:
                ids.append(sentinels.end)
            start = stop + 1
        moved[row, : min(len(ids), length)] = ids[:length]
    return moved[:, :-1]
