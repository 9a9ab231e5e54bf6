"""A corpus to token ids on disk, ready to train on, against `datasets.map`.

Six megabytes of the standard library, with a byte-level BPE of 8,192 tokens that is there already. Ours reads the
text from files and writes a token store; the peer has the text in memory and does what the language-modelling example
of transformers does: tokenise, group into blocks, save. A third leaves everything out but the Rust
tokenizer, which all of them call: what it takes is the least that any of them could take. Every turn is a process of
its own, because one use of either changes how many threads the other gets; imports are not timed.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.training import corpus
from benchmarks.transformers_data import fast_tokenizer
from benchmarks.workload import OURS, Agreement, Candidate, Case, Comparison, Grid, Step, Workload, forget
from lmmodules.data import StandardLibrary, TextFiles, Tokenizer, TokenStore
from lmmodules.data.cache import default_cache_dir
from lmmodules.data.tokenization import TRAIN, write_stores

PEER = "datasets.map, 2 processes"
PEER_ALONE = "datasets.map, 1 process"
ENCODING = "the Rust tokenizer and nothing else"
GOALS = {6: (3.0, 2.2)}
"""By megabytes: goal, floor."""


@dataclass(frozen=True)
class Tokenising(Workload):
    """See the module."""

    title: ClassVar[str] = "Tokenising and packing a corpus"
    grid: ClassVar[Grid] = {"megabytes": (6,)}

    vocab_size: int = 8192
    length: int = 256

    def cases(self, grid: Grid) -> Iterator[Case]:
        """One for each amount of text."""
        for megabytes in grid["megabytes"]:
            packages = ("transformers", "datasets")
            agreement = partial(self.agreement, megabytes)
            candidates = (
                Candidate(OURS, partial(self.our_step, megabytes), process="fresh"),
                Candidate(PEER, partial(self.their_step, megabytes, 2), packages, agreement, process="fresh"),
                Candidate(PEER_ALONE, partial(self.their_step, megabytes, None), packages, agreement, process="fresh"),
                Candidate(ENCODING, partial(self.encoding_step, megabytes), process="fresh"),
            )
            goal, floor = GOALS.get(megabytes, (None, None))
            comparisons = (Comparison(PEER, goal, floor), Comparison(PEER_ALONE), Comparison(ENCODING))
            yield Case(f"{megabytes} MB", candidates, comparisons, megabytes, unit="MB", counts_operations=False)

    def tokenizer(self) -> Tokenizer:
        """Trained on the whole standard library."""
        return corpus(self.vocab_size, self.length, 1).tokenizer

    def file(self, megabytes: float) -> Path:
        """The text as JSON lines, a document each, the first documents of the standard library over and over."""
        path = default_cache_dir() / "benchmarks" / f"standard_library_{megabytes}.jsonl"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial_file = path.with_suffix(".partial")
            left = megabytes * 1e6
            with partial_file.open("w") as file:
                documents = [document for document in StandardLibrary().documents() if document]
                for document in itertools.cycle(documents):
                    text = document.encode()[: int(left)].decode(errors="ignore")
                    left -= len(text.encode())
                    if not text:
                        break
                    file.write(json.dumps({"text": text}) + "\n")
            partial_file.replace(path)
        return path

    def our_step(self, megabytes: float) -> Step:
        """From the file to a token store."""
        tokenizer, path = self.tokenizer(), self.file(megabytes)

        def step() -> None:
            with tempfile.TemporaryDirectory() as directory:
                write_stores(Path(directory) / "stores", TextFiles(path), tokenizer)

        return step

    def their_step(self, megabytes: float, num_processes: int | None) -> Step:
        """From texts in memory to a dataset on disk."""
        import datasets

        datasets.disable_caching()
        datasets.disable_progress_bars()
        tokenize = fast_tokenizer(self.tokenizer())
        texts = datasets.Dataset.from_dict({"text": self.texts(megabytes)})

        def step() -> None:
            with tempfile.TemporaryDirectory() as directory:
                tokens = texts.map(
                    lambda rows: tokenize(rows["text"]), batched=True, num_proc=num_processes, remove_columns=["text"]
                )
                blocks = tokens.map(partial(_group, length=self.length), batched=True, num_proc=num_processes)
                blocks.save_to_disk(directory)

        return step

    def encoding_step(self, megabytes: float) -> Step:
        """From texts in memory to lists of ids, by one call."""
        tokenizer, texts = self.tokenizer(), self.texts(megabytes)
        return lambda: forget(tokenizer.encode_batch(texts))

    def texts(self, megabytes: float) -> list[str]:
        """The documents of the file, in memory."""
        return [json.loads(line)["text"] for line in self.file(megabytes).read_text().splitlines()]

    def agreement(self, megabytes: float) -> list[Agreement]:
        """The share of tokens that differ, `</s>` behind every document left out."""
        tokenizer, texts = self.tokenizer(), self.texts(megabytes)
        theirs = fast_tokenizer(tokenizer)(texts)["input_ids"]
        with tempfile.TemporaryDirectory() as directory:
            write_stores(Path(directory) / "stores", TextFiles(self.file(megabytes)), tokenizer)
            stored = np.array(TokenStore(Path(directory) / "stores" / TRAIN).tokens)
        expected = np.concatenate([[*ids, tokenizer.eos_id] for ids in theirs])
        same = len(stored) == len(expected)
        return [Agreement("share of tokens", float((stored != expected).mean()) if same else 1.0, 0.0)]


def _group(rows: dict[str, list[list[int]]], length: int) -> dict[str, Any]:
    """Documents end to end, cut into blocks; what is left of a batch is dropped, as in the example."""
    joined = {name: list(itertools.chain.from_iterable(lists)) for name, lists in rows.items()}
    whole = len(joined["input_ids"]) // length * length
    blocks = {
        name: [values[start : start + length] for start in range(0, whole, length)] for name, values in joined.items()
    }
    return {**blocks, "labels": [list(block) for block in blocks["input_ids"]]}
