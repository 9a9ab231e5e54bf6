"""Making CLINE's views of a batch, of which 100,000 tokens per second are the goal, against a plain loop over words.

Counted are the tokens of the original text; a batch is three texts of as many, the masked original among them. The
peer decodes a row, looks every word up in the same WordNet anew, puts the replacements into the text and encodes both
views; masks and labels it does not make. With the same draws both must choose the same words. Ours has met the words
before. Blocks are in memory. WordNet is that of
`LMM_WORDNET`, or an installed one.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle, islice
from multiprocessing import active_children
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.training import corpus
from benchmarks.workload import OURS, Agreement, Candidate, Case, Comparison, Grid, Seconds, Step, Workload
from lmmodules.data import Blocks, SampleKeys, Tokenizer
from lmmodules.data.cline import ReplacementViews
from lmmodules.data.parts_of_speech import MostFrequentSense, Tagger
from lmmodules.data.word_replacement import ContentWord, Kind, Thesaurus, WordReplacement
from lmmodules.data.wordnet import WordNet, find_wordnet
from lmmodules.errors import InputError

PEER = "decode, look up, encode"
ONE_PROCESS = f"{OURS}, one process"
NUM_BATCHES = 16
NUM_WORKERS = 2
ROWS_TOLERANCE = 0.05
"""Share of rows that may differ: words next to signs of several bytes are told apart by text and not by tokens."""

Batches = list[tuple[Blocks, SampleKeys]]


@dataclass(frozen=True)
class ClineViews(Workload):
    """See the module."""

    title: ClassVar[str] = "CLINE's views of a batch"
    grid: ClassVar[Grid] = {"vocab": (8192,)}

    length: int = 128
    batch_size: int = 16

    def cases(self, grid: Grid) -> Iterator[Case]:
        """In one process against the loop, and by two workers of a loader against one process."""
        for vocab_size in grid["vocab"]:
            step = partial(self.our_step, vocab_size)
            plain = Candidate(
                PEER,
                partial(self.their_step, vocab_size),
                agreement=partial(self.agreement, vocab_size),
                lacks=no_wordnet,
            )
            name = "" if vocab_size == 8192 else f", vocabulary {vocab_size:,}"
            for case, candidates, peer in (
                ("one process", (Candidate(OURS, step, lacks=no_wordnet), plain), PEER),
                (
                    f"{NUM_WORKERS} workers",
                    (
                        Candidate(OURS, partial(self.worker_step, vocab_size), lacks=no_wordnet),
                        Candidate(ONE_PROCESS, step, lacks=no_wordnet),
                    ),
                    ONE_PROCESS,
                ),
            ):
                units = self.batch_size * (self.length - 1)
                yield Case(
                    case + name,
                    candidates,
                    (Comparison(peer),),
                    units,
                    counts_operations=False,
                    told_by="functions" if peer == PEER else "nothing",  # workers tell nothing
                )

    def our_step(self, vocab_size: int) -> Step:
        """One batch."""
        views = self.views(vocab_size)
        turns = cycle(range(NUM_BATCHES))

        def step() -> None:
            views[next(turns)]

        return step

    def worker_step(self, vocab_size: int) -> Step:
        """One batch, made by workers ahead; their processor time counts."""
        batches = iter(DataLoader(self.views(vocab_size), batch_size=None, num_workers=NUM_WORKERS))
        busy = processor_seconds()

        def step() -> Seconds:
            nonlocal busy
            start, before = time.perf_counter(), busy
            next(batches)
            busy = processor_seconds()
            return Seconds(time.perf_counter() - start, busy - before)

        return step

    def their_step(self, vocab_size: int) -> Step:
        """One batch."""
        tokenizer, batches = self.blocks(vocab_size)
        thesaurus = Forgetful(WordNet())
        turns = cycle(batches)

        def step() -> None:
            decode_look_up_encode(tokenizer, thesaurus, *next(turns))

        return step

    def agreement(self, vocab_size: int) -> list[Agreement]:
        """The share of rows of which a view reads otherwise."""
        tokenizer, batches = self.blocks(vocab_size)
        thesaurus, views = Forgetful(WordNet()), self.views(vocab_size)
        differing = []
        for number, batch in enumerate(batches):
            ours, theirs = views[number], decode_look_up_encode(tokenizer, thesaurus, *batch)
            for view in ("positive", "negative"):
                for ids, mask, row in zip(
                    ours[f"{view}_ids"], ours[f"{view}_attention_mask"], theirs[view], strict=True
                ):
                    ids = ids[1 : int(mask.sum()) - 1].tolist()  # the last token may be half a sign
                    differing.append(not tokenizer.decode(row).startswith(tokenizer.decode(ids)))
        return [Agreement("share of rows", float(np.mean(differing)), ROWS_TOLERANCE)]

    def blocks(self, vocab_size: int) -> tuple[Tokenizer, Batches]:
        """The tokenizer, and some batches of blocks as a transform gets them."""
        return _blocks(vocab_size, self.length, self.batch_size)

    def views(self, vocab_size: int) -> Views:
        """The batches with their views, which were all made once."""
        tokenizer, batches = self.blocks(vocab_size)
        views = Views(ReplacementViews().bind(tokenizer), batches)
        for number in range(NUM_BATCHES):
            views[number]
        return views


class Views(Dataset[dict[str, Tensor]]):
    """Batches of blocks with their views, round and round.

    Args:
        transform: Bound to the tokenizer.
        batches: Blocks.
    """

    def __init__(self, transform: ReplacementViews, batches: Batches) -> None:
        self.transform = transform
        self.batches = batches

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return self.transform(*self.batches[number % len(self.batches)])


class Forgetful(Thesaurus):
    """A thesaurus that looks every word up anew; of random words it keeps the list."""

    def replacements(self, word: ContentWord, kind: Kind) -> tuple[str, ...]:
        """As in `Thesaurus`."""
        self._known.clear()
        return super().replacements(word, kind)


@cache
def _blocks(vocab_size: int, length: int, batch_size: int) -> tuple[Tokenizer, Batches]:
    data = corpus(vocab_size, length, batch_size)
    batches = []
    for number, batch in enumerate(islice(data.train_dataloader(), NUM_BATCHES)):
        tokens = batch["input_ids"][:, : length - 1].numpy().astype(np.uint16)
        indices = np.arange(number * batch_size, (number + 1) * batch_size)
        batches.append((Blocks(tokens), SampleKeys(0, np.zeros_like(indices), indices)))
    return data.tokenizer, batches


def no_wordnet() -> str | None:
    """Why nothing can be measured here, if there is no WordNet."""
    try:
        find_wordnet()
    except InputError:
        return "no WordNet, of which `LMM_WORDNET` is the directory"
    return None


def processor_seconds() -> float:
    """Processor time of this process and of those that it has started, where Linux tells."""
    total = time.process_time()
    for child in active_children():
        stat = Path(f"/proc/{child.pid}/stat")
        if stat.exists():
            user, system = stat.read_text().rpartition(")")[2].split()[11:13]
            total += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return total


def decode_look_up_encode(
    tokenizer: Tokenizer, thesaurus: Thesaurus, blocks: Blocks, keys: SampleKeys
) -> dict[str, list[list[int]]]:
    """What everybody writes, with the draws of ours.

    Args:
        tokenizer: Of the rows.
        thesaurus: Of words and their replacements.
        blocks: (B, L) tokens.
        keys: Of the samples.

    Returns:
        Both views, rows of token ids.
    """
    tagger, replacement = MostFrequentSense(thesaurus.wordnet), WordReplacement(thesaurus)
    choosers = {"positive": replacement.positive, "negative": replacement.negative}
    kinds = keys.uniform("cline/kinds", 2)
    draws = {
        view: [keys.uniform(f"cline/{view}/{what}", blocks.tokens.shape[1]) for what in ("order", "picks")]
        for view in choosers
    }
    views: dict[str, list[list[int]]] = {view: [] for view in draws}
    for row, tokens in enumerate(blocks.tokens):
        text = tokenizer.decode(tokens.tolist())
        found, words, num_words = content_words(text, tagger)
        for column, (view, (order, picks)) in enumerate(draws.items()):
            own = np.stack([order[row, : len(words)], picks[row, : len(words)]])
            pieces, done = [], 0
            for place, choice in sorted(choosers[view](words, num_words, float(kinds[row, column]), own).items()):
                start, end = found[place]
                pieces += [text[done:start], choice.text]
                done = end
            views[view].append(tokenizer.encode("".join([*pieces, text[done:]])))
    return views


def content_words(text: str, tagger: Tagger) -> tuple[list[tuple[int, int]], list[ContentWord], int]:
    """Where the words that may be replaced stand in a text, which they are, and how many words there are."""
    places, words, number = [], [], 0
    for match in re.finditer("[A-Za-z]+", text):
        number += 1
        start, end = match.span()
        alone = (
            start > 0
            and end < len(text)
            and not re.match(r"[\w']", text[start - 1])
            and not re.match(r"[\w']", text[end])
        )
        pos = tagger.tag([match[0]])[0] if alone else None
        if pos is not None:
            places.append((start, end))
            words.append(ContentWord(match[0], pos))
    return places, words, number
