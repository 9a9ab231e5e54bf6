"""Where special tokens stand, and what is cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from lmmodules.data import Tokenizer
from lmmodules.data.sequence_layout import LAYOUTS, EncodedSequences, choose_layout, encode_once, encode_texts
from lmmodules.errors import InputError

WORDS = [chr(ord("a") + number) for number in range(20)]


def word_tokenizer(special: tuple[str, str, str]) -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate([*special, "[UNK]", *WORDS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(list(special))
    return Tokenizer(backend)


ROBERTA = word_tokenizer(("<s>", "<pad>", "</s>"))
BERT = word_tokenizer(("[CLS]", "[PAD]", "[SEP]"))


def shown(sequences: EncodedSequences, tokenizer: Tokenizer) -> list[str]:
    ends = sequences.offsets
    return [
        " ".join(tokenizer.backend.id_to_token(int(token)) for token in sequences.tokens[start:end])
        for start, end in pairwise(ends)
    ]


def test_a_text_and_a_pair_as_roberta_and_bert_read_them() -> None:
    single, pair = [["a b", " c "]], [["a b"], ["c d e"]]
    assert choose_layout(None, ROBERTA) is LAYOUTS["roberta"]
    assert choose_layout(None, BERT) is LAYOUTS["bert"]
    assert choose_layout("bert", ROBERTA) is LAYOUTS["bert"]
    assert shown(encode_texts(single, ROBERTA, LAYOUTS["roberta"], 16), ROBERTA) == ["<s> a b </s>", "<s> c </s>"]
    ours = encode_texts(pair, ROBERTA, LAYOUTS["roberta"], 16)
    assert shown(ours, ROBERTA) == ["<s> a b </s> </s> c d e </s>"]
    theirs = encode_texts(pair, BERT, LAYOUTS["bert"], 16)
    assert shown(theirs, BERT) == ["[CLS] a b [SEP] c d e [SEP]"]
    assert theirs.first_lengths.tolist() == [4]
    assert LAYOUTS["roberta"].describe(ROBERTA, 2) == "<s> A </s></s> B </s>"
    assert LAYOUTS["bert"].describe(BERT, 1) == "[CLS] A [SEP]"
    with pytest.raises(InputError, match=r"`data.layout` must be one of roberta, bert, but is t5"):
        choose_layout("t5", ROBERTA)


def cut_one_by_one(first: list[str], second: list[str], budget: int) -> tuple[list[str], list[str]]:
    """BERT's rule as it is told: a token from the longer, of equal ones from the second."""
    first, second = list(first), list(second)
    while len(first) + len(second) > budget:
        (first if len(first) > len(second) else second).pop()
    return first, second


def test_the_longer_text_is_cut_one_token_at_a_time() -> None:
    layout, cut = LAYOUTS["roberta"], 0
    for one in range(1, 12):
        for two in range(1, 12):
            first, second = cut_one_by_one(WORDS[:one], WORDS[:two], budget=8)
            found = encode_texts([[" ".join(WORDS[:one])], [" ".join(WORDS[:two])]], ROBERTA, layout, 12)
            assert shown(found, ROBERTA) == [" ".join(["<s>", *first, "</s> </s>", *second, "</s>"])], (one, two)
            assert found.num_cut == (one + two > 8)
            cut += found.num_cut
    assert cut > 20
    single = encode_texts([[" ".join(WORDS), "a"]], ROBERTA, layout, 5)
    assert shown(single, ROBERTA) == ["<s> a b c </s>", "<s> a </s>"]
    assert single.num_cut == 1
    with pytest.raises(InputError, match="must leave room for the text beside 4 special tokens, but is 5"):
        encode_texts([["a"], ["b"]], ROBERTA, layout, 5)


def test_what_was_encoded_is_kept_by_content(tmp_path: Path) -> None:
    layout = LAYOUTS["roberta"]
    texts = [["a b", "c"], ["d", "e f g"]]
    first = encode_once(tmp_path, texts, ROBERTA, layout, 16)
    assert isinstance(first.tokens, np.memmap)
    assert shown(first, ROBERTA) == shown(encode_texts(texts, ROBERTA, layout, 16), ROBERTA)
    kept = {path.name for path in (tmp_path / "sequences").iterdir() if path.is_dir()}
    encode_once(tmp_path, texts, ROBERTA, layout, 16)
    assert {path.name for path in (tmp_path / "sequences").iterdir() if path.is_dir()} == kept
    others = [
        encode_once(tmp_path, [["a bc", ""], ["d", "e f g"]], ROBERTA, layout, 16),
        encode_once(tmp_path, texts, BERT, layout, 16),
        encode_once(tmp_path, texts, ROBERTA, LAYOUTS["bert"], 16),
        encode_once(tmp_path, texts, ROBERTA, layout, 7),
    ]
    assert len([path for path in (tmp_path / "sequences").iterdir() if path.is_dir()]) == 1 + len(others)
    assert others[-1].num_cut == 1
