"""What transformers makes of the tokens that ours reads: its tokenizer, its collator, and rows for it."""

from __future__ import annotations

from typing import Any

from lmmodules import CorpusDataModule
from lmmodules.data import Tokenizer

NUM_EXAMPLES = 512


def fast_tokenizer(tokenizer: Tokenizer) -> Any:
    """The same tokenizer as a fast one of transformers."""
    import tokenizers
    import transformers

    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    # A space before a word is no part of it, or the collator would take a document for one word.
    backend.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    fast: Any = transformers.PreTrainedTokenizerFast
    return fast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=10**9,
    )


def collator(tokenizer: Tokenizer, *, whole_word: bool = False) -> Any:
    """The masking of transformers; whole words can only be replaced by `<mask>` there."""
    import transformers

    return transformers.DataCollatorForLanguageModeling(
        fast_tokenizer(tokenizer), whole_word_mask=whole_word, mask_replace_prob=1.0 if whole_word else 0.8,
        random_replace_prob=0.0 if whole_word else 0.1,
    )  # fmt: skip


def examples(data: CorpusDataModule, length: int) -> list[dict[str, list[int]]]:
    """Rows as `datasets` gives them: the first samples of the corpus, `<s>` in front, already in memory.

    Args:
        data: Prepared.
        length: Tokens of a row.
    """
    tokens = data.train_samples.store.tokens
    body = length - 1
    count = min(NUM_EXAMPLES, len(tokens) // body)
    rows = tokens[: count * body].reshape(count, body).tolist()
    return [{"input_ids": [data.tokenizer.bos_id, *row]} for row in rows]


def examples_with_offsets(data: CorpusDataModule, length: int) -> list[dict[str, Any]]:
    """Rows with the place of every token in its text and the marks of special tokens, which whole words need there.

    Args:
        data: Prepared.
        length: Tokens of a row.
    """
    tokenize, body = fast_tokenizer(data.tokenizer), length - 1
    rows: list[dict[str, Any]] = []
    for document in data.corpus.documents():
        encoded = tokenize(document, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        for start in range(0, len(ids) - body + 1, body):
            rows.append(
                {
                    "input_ids": [data.tokenizer.bos_id, *ids[start : start + body]],
                    "offset_mapping": [(0, 0), *offsets[start : start + body]],
                    "special_tokens_mask": [1] + [0] * body,
                }
            )
        if len(rows) >= NUM_EXAMPLES:
            break
    return rows
