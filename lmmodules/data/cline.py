"""The three texts of CLINE: one with masks, one rewritten in its meaning, and one rewritten out of it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from lmmodules.batch import IGNORED
from lmmodules.data.masking import Masking
from lmmodules.data.packing import Windows
from lmmodules.data.parts_of_speech import MostFrequentSense, Spacy, Tagger
from lmmodules.data.randomness import SampleKeys
from lmmodules.data.store import TokenStore
from lmmodules.data.token_words import Spans, TokenWords
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Blocks, Transform
from lmmodules.data.word_replacement import Choice, ContentWord, Mode, Thesaurus, WordReplacement, check_shares
from lmmodules.data.wordnet import PartOfSpeech, WordNet
from lmmodules.errors import InputError
from lmmodules.replacement_batch import ReplacementBatch

TaggerName = Literal["most_frequent_sense", "spacy"]
UNCHANGED, KEPT, CHANGED = 0, 1, 2
"""Labels of detection: a content word as it was, one of the same meaning, one of another."""

_LOOKED_AT = 64  # samples that are searched for a word to replace before training starts
_CACHED_WORDS = 200_000


class ReplacementViews(Transform):
    """Mask a text, and write it twice anew: with words of the same meaning, and with opposites or random words.

    Only nouns, verbs, adjectives and adverbs are replaced. Every token of a replacement has its label, every token of
    a content word that stands has 0, and everything else is not asked about. A view that grew is cut at the length of
    the sample. Words are found among the tokens and replacements are tokenised once, so that a warm transform only
    copies.

    Args:
        wordnet: Directory of WordNet 3.x; `None` looks where `LMM_WORDNET` says and in the usual places.
        tagger: `most_frequent_sense` needs nothing else; `spacy` reads context, slowly.
        spacy_model: Name of spaCy's pipeline.
        mode: One kind of replacement `per_block`, as released, or a kind `per_word`.
        positive_share: Most words replaced in the view that keeps the meaning, as a share of all words.
        negative_share: The same of the view that changes it.
        mask_probability: Share of the original's positions that is selected for the masked LM.
        random_probability: Chance that a selected token is replaced by a random one.
        keep_probability: Chance that a selected token is left unchanged.

    Raises:
        InputError: When an argument is out of range; when it is bound, if there is no WordNet or no `<mask>`; when the
            corpus is at hand, if it has no word to replace.

    Source:
        Wang et al. 2021, "CLINE: Contrastive Learning with Semantic Negative Examples for Natural Language
        Understanding", section 3; kandorm/CLINE, `src/dataloader.py` and `src/datacollator.py`.

    Differences:
        The released code writes all three texts anew with spaces around every token; here what is not replaced keeps
        its tokens. Its words with a capital at the beginning of a sentence are candidates, and ours are not. Shares
        are of words and not of words and punctuation.
    """

    batch_type: ClassVar[type] = ReplacementBatch

    def __init__(
        self,
        *,
        wordnet: str | os.PathLike[str] | None = None,
        tagger: TaggerName = "most_frequent_sense",
        spacy_model: str = "en_core_web_sm",
        mode: Mode = "per_block",
        positive_share: float = 0.5,
        negative_share: float = 0.5,
        mask_probability: float = 0.15,
        random_probability: float = 0.1,
        keep_probability: float = 0.1,
    ) -> None:
        if tagger not in get_args(TaggerName):
            raise InputError(
                f"`tagger` must be one of {', '.join(get_args(TaggerName))}, but is {tagger!r}; use "
                "`transform.tagger=most_frequent_sense`"
            )
        check_shares(mode, positive_share, negative_share)
        self.wordnet = wordnet
        self.tagger = tagger
        self.spacy_model = spacy_model
        self.mode: Mode = mode
        self.shares = (positive_share, negative_share)
        self.masking = Masking(
            mask_probability=mask_probability,
            random_probability=random_probability,
            keep_probability=keep_probability,
            mask_special_tokens=False,
        )
        self._writer: _Writer | None = None

    def bind(self, tokenizer: Tokenizer) -> Self:
        """Look up `<s>` and `<mask>`, and open WordNet."""
        bound = copy.copy(self)
        bound.masking = self.masking.bind(tokenizer)
        wordnet = WordNet(self.wordnet)
        tagger: Tagger = MostFrequentSense(wordnet) if self.tagger == "most_frequent_sense" else Spacy(self.spacy_model)
        replacement = WordReplacement(
            Thesaurus(wordnet), mode=self.mode, positive_share=self.shares[0], negative_share=self.shares[1]
        )
        bound._writer = _Writer(tokenizer, tagger, replacement)
        return bound

    def attach(self, store: TokenStore, windows: Windows) -> Self:
        """Look for a word that can be replaced, so that a corpus without any is refused before it is trained on.

        Raises:
            InputError: When there is none.
        """
        assert self._writer is not None
        some = np.linspace(0, len(windows) - 1, min(len(windows), _LOOKED_AT)).astype(np.int64)
        if len(some):
            blocks = windows.read(store.tokens, some, pad_id=self._writer.pad_id, trim=False)
            if not any(row.places for row in self._writer.content(blocks)):
                raise InputError(
                    f"`data.path` must hold English text with words that WordNet can replace, but {len(some)} samples "
                    "of it hold none; use other text, a larger `data.max_length=128`, or another `objective`"
                )
        return self

    def block_length(self, max_length: int) -> int:
        """One position is taken by `<s>`."""
        return self.masking.block_length(max_length)

    def __call__(self, blocks: Blocks, keys: SampleKeys) -> dict[str, Tensor]:
        """Make a `ReplacementBatch` of (B, L + 1) positions from blocks of (B, L) tokens."""
        assert self._writer is not None
        batch = self.masking(blocks, keys)
        views = self._writer.views(blocks, keys)
        return batch | {name: torch.from_numpy(array) for name, array in views.items()}

    def ignore(self, batch: dict[str, Tensor], rows: np.ndarray) -> None:
        """Take samples out of every loss, in place."""
        super().ignore(batch, rows)
        for view in ("positive", "negative"):
            batch[f"{view}_labels"][rows] = IGNORED
        batch["contrasted"][rows] = 0


class _ContentOfRow:
    """The words of a row that may be replaced."""

    __slots__ = ("ends", "num_words", "places", "spaced", "starts", "words")

    def __init__(self) -> None:
        self.num_words = 0
        self.words: list[ContentWord] = []
        self.places: list[int] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.spaced: list[bool] = []


class _Writer:
    """Writes the views of rows of tokens; what it has looked up it keeps."""

    def __init__(self, tokenizer: Tokenizer, tagger: Tagger, replacement: WordReplacement) -> None:
        self.tokenizer = tokenizer
        self.tagger = tagger
        self.replacement = replacement
        self.token_words = TokenWords(tokenizer)
        self.bos_id = tokenizer.bos_id
        self.pad_id = tokenizer.pad_id if tokenizer.has("pad") else tokenizer.bos_id
        self._words: dict[bytes, ContentWord | None] = {}
        self._pieces: dict[tuple[str, bool], list[int]] = {}

    def content(self, blocks: Blocks) -> list[_ContentOfRow]:
        """Of each row, the words that may be replaced."""
        spans = self.token_words.spans(blocks.tokens, blocks.lengths)
        rows = [_ContentOfRow() for _ in blocks.tokens]
        tags = self._tags(blocks, spans) if self.tagger.reads_context else None
        spaced = self.token_words.spaced[blocks.tokens[spans.rows, spans.starts]].tolist()
        every = zip(spans.rows.tolist(), spans.starts.tolist(), spans.ends.tolist(), spans.whole.tolist(), strict=True)
        for number, (row, start, end, whole) in enumerate(every):
            content = rows[row]
            content.num_words += 1
            if not whole:
                continue
            tokens = blocks.tokens[row, start:end]
            word = self._word(tokens) if tags is None else _as_content(self._text(tokens), tags[number])
            if word is not None:
                content.words.append(word)
                content.places.append(number)
                content.starts.append(start)
                content.ends.append(end)
                content.spaced.append(spaced[number])
        return rows

    def views(self, blocks: Blocks, keys: SampleKeys) -> dict[str, np.ndarray]:
        """Both views of every row, and whether both differ from it."""
        content = self.content(blocks)
        most = max(1, *(len(row.words) for row in content)) if content else 1
        num_rows, length = blocks.tokens.shape
        kinds = keys.uniform("cline/kinds", 2)
        contrasted = np.ones(num_rows, dtype=np.int64)
        batch: dict[str, np.ndarray] = {"contrasted": contrasted}
        lengths = [length] * num_rows if blocks.lengths is None else blocks.lengths.tolist()
        choosers = {"positive": self.replacement.positive, "negative": self.replacement.negative}
        for column, (view, choose) in enumerate(choosers.items()):
            order = keys.uniform(f"cline/{view}/order", most)
            picks = keys.uniform(f"cline/{view}/picks", most)
            ids = np.full((num_rows, length + 1), self.pad_id)
            labels = np.full((num_rows, length + 1), IGNORED)
            mask = np.zeros((num_rows, length + 1), dtype=np.int64)
            documents = None if blocks.document_ids is None else np.zeros((num_rows, length + 1), dtype=np.int64)
            ids[:, 0], mask[:, 0] = self.bos_id, 1
            for row, words in enumerate(content):
                size = len(words.words)
                draws = np.stack([order[row, :size], picks[row, :size]])
                chosen = choose(words.words, words.num_words, float(kinds[row, column]), draws)
                label = KEPT if view == "positive" else CHANGED
                written, asked, source = self._write(
                    blocks.tokens[row, : lengths[row]].tolist(), words, chosen, label, documents is not None
                )
                written, asked = written[:length], asked[:length]
                ids[row, 1 : len(written) + 1] = written
                labels[row, 1 : len(written) + 1] = asked
                mask[row, : len(written) + 1] = 1
                contrasted[row] &= label in asked
                if documents is not None and blocks.document_ids is not None:
                    documents[row, 1 : len(written) + 1] = blocks.document_ids[row, source[:length]]
                    documents[row, 0] = blocks.document_ids[row, 0]
            batch |= {f"{view}_ids": ids, f"{view}_labels": labels, f"{view}_attention_mask": mask}
            if documents is not None:
                batch[f"{view}_document_ids"] = documents
        return batch

    def _write(
        self, tokens: list[int], content: _ContentOfRow, chosen: Mapping[int, Choice], label: int, with_source: bool
    ) -> tuple[list[int], list[int], list[int]]:
        """The tokens of a view, their labels, and the column that each comes from."""
        ids: list[int] = []
        labels: list[int] = []
        source: list[int] = []
        done = 0
        for place, (start, end, spaced) in enumerate(zip(content.starts, content.ends, content.spaced, strict=True)):
            ids += tokens[done:start]
            labels += [IGNORED] * (start - done)
            choice = chosen.get(place)
            pieces = tokens[start:end] if choice is None else self._pieces_of(choice.text, spaced)
            ids += pieces
            labels += [UNCHANGED if choice is None else label] * len(pieces)
            if with_source:
                source += [*range(done, start), *[start] * len(pieces)]
            done = end
        ids += tokens[done:]
        labels += [IGNORED] * (len(tokens) - done)
        if with_source:
            source += range(done, len(tokens))
        return ids, labels, source

    def _pieces_of(self, text: str, spaced: bool) -> list[int]:
        pieces = self._pieces.get((text, spaced))
        if pieces is None:
            if len(self._pieces) >= _CACHED_WORDS:
                self._pieces.clear()
            pieces = self._pieces[text, spaced] = self.tokenizer.encode(f" {text}" if spaced else text)
        return pieces

    def _word(self, tokens: np.ndarray) -> ContentWord | None:
        key = tokens.tobytes()
        try:
            return self._words[key]
        except KeyError:
            if len(self._words) >= _CACHED_WORDS:
                self._words.clear()
            text = self._text(tokens)
            word = self._words[key] = _as_content(text, self.tagger.tag([text])[0])
            return word

    def _text(self, tokens: np.ndarray) -> str:
        texts = self.token_words.texts
        return "".join(texts[token] for token in tokens.tolist())

    def _tags(self, blocks: Blocks, spans: Spans) -> Sequence[PartOfSpeech | None]:
        """Parts of speech of all words, each row tagged as a text of words and what stands between them."""
        tags: list[PartOfSpeech | None] = []
        for row, tokens in enumerate(blocks.tokens):
            own = spans.rows == row
            words, places, done = [], [], 0
            for start, end in zip(spans.starts[own].tolist(), spans.ends[own].tolist(), strict=True):
                words += [text for token in tokens[done:start].tolist() if (text := self.token_words.texts[token])]
                places.append(len(words))
                words.append(self._text(tokens[start:end]))
                done = end
            found = self.tagger.tag(words)
            tags += [found[place] for place in places]
        return tags


def _as_content(text: str, pos: PartOfSpeech | None) -> ContentWord | None:
    return None if pos is None or not text.islower() else ContentWord(text, pos)
