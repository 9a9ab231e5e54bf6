"""Training a byte-level BPE vocabulary on a corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import tokenizers

from lmmodules.data.corpora import Corpus
from lmmodules.data.recipe import check_filled, training_text
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError

FIRST_SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
MASK_TOKEN = "<mask>"
_NUM_BYTES = 256


class ByteLevelBPE:
    """How to train a tokenizer: the recipe of GPT-2, with RoBERTa's special tokens.

    Text is cut into words, numbers, punctuation and white space by GPT-2's expression, spelt in bytes, and the most
    frequent neighbours are merged. Nothing is unknown and decoding is lossless. Ids: `<s>` 0, `<pad>` 1, `</s>` 2,
    `<unk>` 3, the 256 bytes, the merges, then `special_tokens`, and `<mask>` last.

    Args:
        vocab_size: Number of ids, special tokens included.
        special_tokens: Further special tokens, placed before `<mask>`.
        max_bytes: Text to learn from, in bytes. A longer corpus is sampled evenly where its size is known before it
            is read, and otherwise its beginning is taken.

    Raises:
        InputError: When `vocab_size` has no room for the bytes and the special tokens.

    Source:
        GPT-2 (Radford et al. 2019), section 2.2; the order of special tokens is fairseq's `data/dictionary.py`.
    """

    def __init__(
        self, vocab_size: int = 4096, special_tokens: Sequence[str] = (), max_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self.vocab_size = vocab_size
        self.special_tokens = tuple(special_tokens)
        self.max_bytes = max_bytes
        smallest = _NUM_BYTES + len(FIRST_SPECIAL_TOKENS) + len(self.special_tokens) + 1
        if vocab_size < smallest:
            raise InputError(
                f"`tokenizer.vocab_size` must be at least {smallest} ({_NUM_BYTES} bytes and "
                f"{smallest - _NUM_BYTES} special tokens), but is {vocab_size}; use `tokenizer.vocab_size={smallest}`"
            )
        if len({*FIRST_SPECIAL_TOKENS, *self.special_tokens, MASK_TOKEN}) < smallest - _NUM_BYTES:
            raise InputError(
                f"`tokenizer.special_tokens` must differ from each other and from "
                f"{', '.join((*FIRST_SPECIAL_TOKENS, MASK_TOKEN))}, but are {', '.join(self.special_tokens)}"
            )
        if max_bytes < 1:
            raise InputError(f"`tokenizer.max_bytes` must be positive, but is {max_bytes}")

    def fingerprint(self) -> str:
        """Key of the recipe, 16 hexadecimal digits."""
        recipe = repr((self.vocab_size, self.special_tokens, self.max_bytes))
        return hashlib.blake2b(recipe.encode(), digest_size=8).hexdigest()

    def train(self, corpus: Corpus) -> Tokenizer:
        """Learn the vocabulary.

        Args:
            corpus: Text to learn from.

        Raises:
            InputError: When the corpus is empty or too small for `vocab_size` tokens.
        """
        backend = tokenizers.Tokenizer(tokenizers.models.BPE())
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=self.vocab_size - len(self.special_tokens) - 1,
            min_frequency=2,
            special_tokens=list(FIRST_SPECIAL_TOKENS),
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(training_text(corpus, self.max_bytes), trainer)
        backend.add_special_tokens([*self.special_tokens, MASK_TOKEN])
        check_filled(backend.get_vocab_size(with_added_tokens=True), self.vocab_size, corpus)
        return Tokenizer(backend)
