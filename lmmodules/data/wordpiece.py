"""Training a WordPiece vocabulary on a corpus."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers

from lmmodules.data.corpora import Corpus
from lmmodules.data.recipe import check_filled, training_text
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION = "##"
_CHARACTER_BITS = np.uint64(21)


class WordPiece:
    """How to train a tokenizer: BERT's recipe.

    Text is cleaned, lowercased and stripped of accents, cut at white space and around each punctuation mark and each
    Chinese character, and the words are spelt by pieces, of which those that continue a word begin with `##`. White
    space is lost, and a character that is not in the vocabulary makes its whole word `[UNK]`. Ids: `[PAD]` 0, `[UNK]`
    1, `[CLS]` 2, `[SEP]` 3, `[MASK]` 4, `special_tokens`, then characters and pieces.

    Args:
        vocab_size: Number of ids, special tokens included.
        lowercase: Whether case and accents are dropped, as in the `uncased` models.
        special_tokens: Further special tokens.
        max_characters: Characters to learn, the most frequent ones; words with others become `[UNK]`.
        max_bytes: Text to learn from, in bytes. A longer corpus is sampled evenly where its size is known before it
            is read, and otherwise its beginning is taken.

    Raises:
        InputError: When an argument is out of range.

    Source:
        BERT (Devlin et al. 2019), section 3, with 30,522 ids in the released uncased models.

    Differences:
        Pieces are learned by merging the most frequent neighbours, as `tokenizers` does; how the released vocabularies
        were learned was not published. The special tokens of those have other ids.
    """

    def __init__(
        self,
        vocab_size: int = 4096,
        lowercase: bool = True,
        special_tokens: Sequence[str] = (),
        max_characters: int = 1000,
        max_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.vocab_size = vocab_size
        self.lowercase = lowercase
        self.special_tokens = tuple(special_tokens)
        self.max_characters = max_characters
        self.max_bytes = max_bytes
        for name, value in (("max_characters", max_characters), ("max_bytes", max_bytes)):
            if value < 1:
                raise InputError(f"`tokenizer.{name}` must be positive, but is {value}")
        if len({*SPECIAL_TOKENS, *self.special_tokens}) < len(SPECIAL_TOKENS) + len(self.special_tokens):
            raise InputError(
                f"`tokenizer.special_tokens` must differ from each other and from {', '.join(SPECIAL_TOKENS)}, but are "
                f"{', '.join(self.special_tokens)}"
            )

    def fingerprint(self) -> str:
        """Key of the recipe, 16 hexadecimal digits."""
        recipe = repr(
            (
                type(self).__name__,
                self.vocab_size,
                self.lowercase,
                self.special_tokens,
                self.max_characters,
                self.max_bytes,
            )
        )
        return hashlib.blake2b(recipe.encode(), digest_size=8).hexdigest()

    def train(self, corpus: Corpus) -> Tokenizer:
        """Learn the vocabulary. The same text gives the same ids.

        Args:
            corpus: Text to learn from.

        Raises:
            InputError: When the corpus is empty, or too small for `vocab_size` tokens, or `vocab_size` too small for
                the characters of the corpus.
        """
        special = (*SPECIAL_TOKENS, *self.special_tokens)
        backend = self._untrained({})
        # Known before it is learned, since `tokenizers` numbers characters as they come out of a hash table.
        alphabet = self._alphabet(training_text(corpus, self.max_bytes), backend)
        if len(special) + len(alphabet) > self.vocab_size:
            least = len(special) + len(alphabet)
            raise InputError(
                f"`tokenizer.vocab_size` must be at least {least} ({len(special)} special tokens and the characters of "
                f"{corpus.describe()}, within words and at their beginning), but is {self.vocab_size}; use "
                f"`tokenizer.vocab_size={least}` or a smaller `tokenizer.max_characters`"
            )
        characters = [token for token in alphabet if not token.startswith(CONTINUATION)]
        trainer = tokenizers.trainers.WordPieceTrainer(
            vocab_size=self.vocab_size,
            min_frequency=2,
            special_tokens=[*special, *alphabet],
            initial_alphabet=characters,
            limit_alphabet=len(characters),
            continuing_subword_prefix=CONTINUATION,
            show_progress=False,
        )
        backend.train_from_iterator(training_text(corpus, self.max_bytes), trainer)
        vocabulary = backend.get_vocab()
        check_filled(len(vocabulary), self.vocab_size, corpus)
        trained = self._untrained(vocabulary)
        trained.add_special_tokens(list(special))
        return Tokenizer(trained)

    def _untrained(self, vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer(
            tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=CONTINUATION)
        )
        backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=self.lowercase)
        backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        backend.decoder = tokenizers.decoders.WordPiece(prefix=CONTINUATION)
        return backend

    def _alphabet(self, texts: Iterable[str], backend: tokenizers.Tokenizer) -> list[str]:
        """The most frequent characters, and with `##` those of them that stand within words."""
        frequencies: Counter[int] = Counter()
        neighbours: set[int] = set()
        for text in texts:
            normalized = backend.normalizer.normalize_str(text)
            codes = np.frombuffer(normalized.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
            frequencies.update(
                dict(zip(*(part.tolist() for part in np.unique(codes, return_counts=True)), strict=True))
            )
            neighbours.update(np.unique(codes[:-1] << _CHARACTER_BITS | codes[1:]).tolist())
        ranked = sorted((code for code in frequencies if not chr(code).isspace()), key=lambda c: (-frequencies[c], c))
        kept = set(ranked[: self.max_characters])
        within = set()
        for pair in neighbours:
            first, second = divmod(pair, 2 ** int(_CHARACTER_BITS))
            together = chr(first) + chr(second)
            if second in kept and backend.pre_tokenizer.pre_tokenize_str(together) == [(together, (0, 2))]:
                within.add(second)
        return [chr(code) for code in sorted(kept)] + [CONTINUATION + chr(code) for code in sorted(within)]
