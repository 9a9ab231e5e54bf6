"""From a corpus to a tokenizer and to the token stores of training and validation, kept by content."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn, TransferSpeedColumn

from lmmodules.data import vocabulary
from lmmodules.data.cache import make_once
from lmmodules.data.corpora import Corpus
from lmmodules.data.encoding import encode
from lmmodules.data.recipe import TokenizerRecipe
from lmmodules.data.store import FORMAT, TokenStore, TokenStoreWriter, token_dtype
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError

logger = logging.getLogger(__name__)

TRAIN, VALIDATION, TOKENIZER = "train", "validation", "tokenizer.json"
_COPIED_AT_ONCE = 4 * 1024 * 1024


def prepare_tokenizer(cache_dir: Path, corpus: Corpus, recipe: TokenizerRecipe) -> Tokenizer:
    """Train a tokenizer, or open the one that was trained on the same text by the same recipe.

    Args:
        cache_dir: Where it is kept.
        corpus: Text to learn from.
        recipe: How.

    Raises:
        InputError: When the corpus is empty or too small for the vocabulary, or the disk is full.
    """

    def write(path: Path) -> None:
        logger.info("training a tokenizer on %s", corpus.describe())
        trained = recipe.train(corpus)
        path.mkdir()
        trained.save(path / TOKENIZER)

    key = f"{corpus.fingerprint()}-{recipe.fingerprint()}"
    return Tokenizer.from_file(make_once(cache_dir / "tokenizers" / key, write) / TOKENIZER)


def prepare_stores(
    cache_dir: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    validation_fraction: float,
    validation_corpus: Corpus | None = None,
) -> Path:
    """Write the token stores, or find those of the same text, tokenizer and division.

    Args:
        cache_dir: Where they are kept.
        corpus: See `write_stores`.
        tokenizer: See `write_stores`.
        validation_fraction: See `write_stores`.
        validation_corpus: See `write_stores`.

    Returns:
        The directory that holds `train`, `validation` and `tokenizer.json`.

    Raises:
        InputError: When a corpus has no text or too little, or the disk is full.
    """

    def write(path: Path) -> None:
        logger.info("tokenising %s", corpus.describe())
        write_stores(
            path, corpus, tokenizer, validation_fraction=validation_fraction, validation_corpus=validation_corpus
        )
        tokenizer.save(path / TOKENIZER)
        for note in [*corpus.notes(), *(validation_corpus.notes() if validation_corpus else ())]:
            logger.warning(note)

    held_out = validation_fraction if validation_corpus is None else validation_corpus.fingerprint()
    key: tuple[object, ...] = (FORMAT, corpus.fingerprint(), tokenizer.fingerprint(), held_out)
    if not vocabulary.keeps_line_breaks(tokenizer.backend):
        key = (*key, "with the ends of lines")
    return make_once(cache_dir / "tokens" / hashlib.blake2b(repr(key).encode(), digest_size=8).hexdigest(), write)


def write_stores(
    path: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    validation_fraction: float = 0.0,
    validation_corpus: Corpus | None = None,
) -> None:
    """Write `path/train` and `path/validation`.

    A document is held out by a hash of its content, so equal documents stay on one side, and documents that are added
    to a corpus move no others. Where that leaves one side without any document (a corpus of one or few), the
    documents are not divided, and the end of their tokens is held out instead.

    With a tokenizer that drops line breaks, text is encoded line by line, and the ends of lines are kept beside the
    tokens.

    Args:
        path: Directory to write; it must not exist.
        corpus: Text to train on.
        tokenizer: Turns it into tokens.
        validation_fraction: Share of the documents to hold out; 0 writes no validation store, 1 nothing else.
        validation_corpus: Text to validate on; then nothing is held out of `corpus`.

    Raises:
        InputError: When a corpus has no text, or too little to hold any out.
    """
    if validation_corpus is not None:
        _write(path, {TRAIN: 1.0}, corpus, tokenizer)
        _write(path, {VALIDATION: 1.0}, validation_corpus, tokenizer)
        return
    shares = {TRAIN: 1 - validation_fraction, VALIDATION: validation_fraction}
    shares = {name: share for name, share in shares.items() if share > 0}
    _write(path, shares, corpus, tokenizer)
    if len(shares) == 2:
        empty = [name for name in shares if not (path / name / "store.json").exists()]
        if empty:
            _hold_out_end(path, tokenizer, empty[0], validation_fraction)


def _write(path: Path, shares: dict[str, float], corpus: Corpus, tokenizer: Tokenizer) -> None:
    """Write one store or two; a store that no document fell into is left without its header."""
    eos_id, vocab_size = tokenizer.eos_id, tokenizer.vocab_size
    by_line = not vocabulary.keeps_line_breaks(tokenizer.backend)
    writers = {name: TokenStoreWriter(path / name, vocab_size, eos_id, by_line) for name in shares}
    try:
        with _progress(corpus) as progress:
            for piece, ids in encode(corpus.documents(), tokenizer, token_dtype(vocab_size), by_line=by_line):
                name = next(iter(shares))
                if len(shares) == 2 and piece.document_hash < shares[VALIDATION] * 2**64:
                    name = VALIDATION
                writers[name].append(ids, ends_document=piece.ends_document, ends_line=piece.ends_line)
                progress(piece.num_bytes)
        written = {name: writer for name, writer in writers.items() if writer.num_documents}
        if not written:
            reasons = "; ".join(["", *corpus.notes()])
            raise InputError(
                f"a corpus must hold text, but {corpus.describe()} has none{reasons}; use another `data.path`"
            )
        for writer in written.values():
            writer.finish(tokenizer.fingerprint(), corpus.fingerprint(), corpus.notes())
    finally:
        for writer in writers.values():
            writer.close()


def _hold_out_end(path: Path, tokenizer: Tokenizer, empty: str, validation_fraction: float) -> None:
    """Divide the only store there is by tokens, without reading the corpus again."""
    full = VALIDATION if empty == TRAIN else TRAIN
    undivided = path / "undivided"
    (path / full).rename(undivided)
    for leftover in (path / empty).iterdir():
        leftover.unlink()
    (path / empty).rmdir()
    store = TokenStore(undivided)
    num_held_out = max(2, round(len(store) * validation_fraction))
    border = len(store) - num_held_out
    if border < 2:
        raise InputError(
            f"a corpus must have at least 4 tokens to hold some out for validation, but this one has {len(store)}; "
            "use another `data.path` or `data.validation_fraction=0`"
        )
    note = f"too few documents to hold any out: the last {num_held_out} tokens are for validation"
    for name, start, end in ((TRAIN, 0, border), (VALIDATION, border, len(store))):
        inside = store.offsets[(store.offsets > start) & (store.offsets < end)]
        marks_lines = store.sentences is not None
        with TokenStoreWriter(path / name, store.header.vocab_size, tokenizer.eos_id, marks_lines) as writer:
            for begin, stop in pairwise([start, *inside.tolist(), end]):
                for first, last, ends_line in _parts(store, begin, stop):
                    writer.append(store.tokens[first:last], ends_document=False, ends_line=ends_line)
                writer.end_document()
            writer.finish(store.header.tokenizer, store.header.corpus, [*store.header.notes, note])
    for file in undivided.iterdir():
        file.unlink()
    undivided.rmdir()


def _parts(store: TokenStore, begin: int, stop: int) -> Iterator[tuple[int, int, bool]]:
    """A document in parts that are short enough to copy, and whether each ends a line."""
    sentences = store.sentences
    lines = [] if sentences is None else sentences[(sentences > begin) & (sentences < stop)].tolist()
    ends = set(lines)
    borders = sorted({*range(begin, stop, _COPIED_AT_ONCE), *lines, stop})
    for first, last in pairwise(borders):
        yield first, last, last in ends


class _Bar:
    """Adds bytes to a progress bar."""

    def __init__(self, progress: Progress, total: int | None) -> None:
        self.progress = progress
        self.task = progress.add_task("tokenising", total=total)

    def __call__(self, num_bytes: int) -> None:
        self.progress.advance(self.task, num_bytes)


@contextmanager
def _progress(corpus: Corpus) -> Iterator[_Bar]:
    # Only the process that writes comes here; a file or a pipe instead of a terminal gets no bar.
    console = Console(stderr=True, force_jupyter=False)  # rich's bar for notebooks needs a package of its own
    shown = console.is_terminal
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        yield _Bar(progress, corpus.num_bytes())
