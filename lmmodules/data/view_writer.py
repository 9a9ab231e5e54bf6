"""Writes a row of tokens anew with some of its words replaced, and says of every token whether it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lmmodules.batch import IGNORED
from lmmodules.data.parts_of_speech import Tagger
from lmmodules.data.randomness import SampleKeys
from lmmodules.data.token_words import Spans, TokenWords
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Blocks
from lmmodules.data.word_replacement import Choice, ContentWord, WordReplacement
from lmmodules.data.wordnet import PartOfSpeech

UNCHANGED, KEPT, CHANGED = 0, 1, 2
"""Labels of detection: a content word as it was, one of the same meaning, one of another."""

_CACHED_WORDS = 200_000


class ContentOfRow:
    """The words of a row that may be replaced.

    Attributes:
        num_words: All words of the row, replaceable or not.
        words: Those that may be replaced.
        places: Number of each among all words of the batch.
        starts: First column of each.
        ends: One past its last column.
        spaced: Whether its first token holds the space before it.
    """

    __slots__ = ("ends", "num_words", "places", "spaced", "starts", "words")

    def __init__(self) -> None:
        self.num_words = 0
        self.words: list[ContentWord] = []
        self.places: list[int] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.spaced: list[bool] = []


class ViewWriter:
    """Writes the views of rows of tokens; what it has looked up it keeps.

    Args:
        tokenizer: That of the rows.
        tagger: Says which words carry content.
        replacement: Chooses among them.
    """

    def __init__(self, tokenizer: Tokenizer, tagger: Tagger, replacement: WordReplacement) -> None:
        self.tokenizer = tokenizer
        self.tagger = tagger
        self.replacement = replacement
        self.token_words = TokenWords(tokenizer)
        self.bos_id = tokenizer.bos_id
        self.pad_id = tokenizer.pad_id if tokenizer.has("pad") else tokenizer.bos_id
        self._words: dict[bytes, ContentWord | None] = {}
        self._pieces: dict[tuple[str, bool], list[int]] = {}

    def content(self, blocks: Blocks) -> list[ContentOfRow]:
        """Of each row, the words that may be replaced.

        Args:
            blocks: (B, L) tokens.
        """
        spans = self.token_words.spans(blocks.tokens, blocks.lengths)
        rows = [ContentOfRow() for _ in blocks.tokens]
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
        """Both views of every row, (B, L + 1), whether both differ from it in what its `<s>` sees, and how.

        Args:
            blocks: (B, L) tokens.
            keys: Who the rows are.
        """
        content = self.content(blocks)
        most = max(1, *(len(row.words) for row in content)) if content else 1
        num_rows, length = blocks.tokens.shape
        kinds = keys.uniform("cline/kinds", 2)
        contrasted = np.ones(num_rows, dtype=np.int64)
        opposed = np.zeros(num_rows, dtype=np.int64)
        batch: dict[str, np.ndarray] = {"contrasted": contrasted, "opposed": opposed}
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
                # Of the negative view, which comes last; nothing in the positive one is an opposite.
                opposed[row] = bool(chosen) and all(choice.kind == "antonym" for choice in chosen.values())
                written, asked, source = self._write(
                    blocks.tokens[row, : lengths[row]].tolist(), words, chosen, label, documents is not None
                )
                written, asked = written[:length], asked[:length]
                ids[row, 1 : len(written) + 1] = written
                labels[row, 1 : len(written) + 1] = asked
                mask[row, : len(written) + 1] = 1
                if documents is not None and blocks.document_ids is not None:
                    own = blocks.document_ids[row, source[:length]]
                    documents[row, 1 : len(written) + 1] = own
                    documents[row, 0] = first = blocks.document_ids[row, 0]
                    asked = asked[: np.count_nonzero(own == first)]
                contrasted[row] &= label in asked
            batch |= {f"{view}_ids": ids, f"{view}_labels": labels, f"{view}_attention_mask": mask}
            if documents is not None:
                batch[f"{view}_document_ids"] = documents
        return batch

    def _write(
        self, tokens: list[int], content: ContentOfRow, chosen: Mapping[int, Choice], label: int, with_source: bool
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
