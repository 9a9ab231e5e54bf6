from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from lmmodules.data import ByteLevelBPE, Tokenizer, vocabulary
from lmmodules.data.tokenizer import _LITTLE_TEXT
from lmmodules.errors import InputError

ODD_TEXTS = [
    "",
    " ",
    "\n\n\t  \r\n x",
    "naïve café — “quotes” … ½",
    "日本語のテキスト、漢字とかな",
    "👩‍👩‍👧‍👦 🇩🇪 e\u0301 \u200b\ufeff",
    "\x00\x01\x7f\x85\xa0\u2028",
    "мир שלום مرحبا नमस्ते",
    "</s><s><mask><pad><unk> is text",
    "a" * 500,
    "I'll don't WE'RE",
    "\U0010ffff\ud7ff\ue000",
]


def test_special_tokens_stand_where_the_contract_says(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_id, tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert tokenizer.vocab_size == len(tokenizer) == 300
    assert tokenizer.mask_id == 299
    assert tokenizer.special_ids.tolist() == [0, 1, 2, 3, 299]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.special_ids.tolist())
    assert tokenizer.encode_batch([text, "and"]) == [ids, tokenizer.encode("and")]


def test_many_texts_are_encoded_as_few_are(tokenizer: Tokenizer) -> None:
    texts = [text * 40 for text in ODD_TEXTS] * 3
    assert sum(map(len, texts)) > 2 * _LITTLE_TEXT
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_names_of_special_tokens_are_read_only_on_demand(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a</s>", parse_special_tokens=True) == [*tokenizer.encode("a"), 2]
    assert 2 not in tokenizer.encode("a</s>")  # and the switch does not stick
    assert tokenizer.decode([2, *tokenizer.encode("a"), 0]) == "a"
    assert tokenizer.decode([2, *tokenizer.encode("a")], skip_special_tokens=False) == "</s>a"


def test_json_and_file_and_pickle_give_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    for copy in (
        Tokenizer.from_json(tokenizer.to_json()),
        Tokenizer.from_file(tmp_path / "tokenizer.json"),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert copy.fingerprint() == tokenizer.fingerprint()
        assert copy.encode("the cat</s>") == tokenizer.encode("the cat</s>")
        assert copy.mask_id == 299


def test_fingerprint_tells_tokenizers_apart(tokenizer: Tokenizer, corpus_of: Callable, prose: Callable) -> None:
    again = ByteLevelBPE(vocab_size=300).train(corpus_of(prose(200)))
    other = ByteLevelBPE(vocab_size=301).train(corpus_of(prose(200)))
    assert again.fingerprint() == tokenizer.fingerprint()
    assert other.fingerprint() != tokenizer.fingerprint()


def test_truncation_and_padding_of_a_saved_tokenizer_are_switched_off(tokenizer: Tokenizer) -> None:
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    text = "the cat sat on a mat"
    assert Tokenizer(backend).encode(text) == tokenizer.encode(text)


def test_a_missing_token_is_named_when_asked_for(tokenizer: Tokenizer) -> None:
    bare = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "<|endoftext|>": 1}, []))
    gpt = Tokenizer(bare)
    assert gpt.eos_id == gpt.bos_id == 1
    assert not gpt.has("mask")
    with pytest.raises(InputError, match="`mask` token, but the vocabulary of 2 has none"):
        _ = gpt.mask_id


def test_roles_can_be_given(tokenizer: Tokenizer) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "END": 1, "<unk>": 2}, []))
    named = Tokenizer(backend, {"eos": "END"})
    assert named.eos_id == 1
    assert Tokenizer.from_json(named.to_json()).eos_id == 1
    with pytest.raises(InputError, match="names `end`"):
        Tokenizer(backend, {"end": "END"})
    with pytest.raises(InputError, match="`STOP` must be in the vocabulary"):
        Tokenizer(backend, {"eos": "STOP"})


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`tokenizer.path` must be a readable"):
        Tokenizer.from_file(tmp_path / "absent.json")
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match=r"JSON form of `tokenizers`, but .*other.json is not"):
        Tokenizer.from_file(tmp_path / "other.json")
    with pytest.raises(InputError, match="JSON form"):
        Tokenizer.from_json("[1]")


def test_word_starts_of_byte_level(tokenizer: Tokenizer) -> None:
    starts = tokenizer.word_starts
    assert starts.shape == (300,)
    ids = tokenizer.encode("xyz the zebra\ton\nq")
    texts = [tokenizer.decode([token]) for token in ids]
    assert [bool(starts[token]) for token in ids] == [text[0].isspace() for text in texts]
    assert {"x", " the", "\n"} <= set(texts)
    assert starts[tokenizer.special_ids].all()


def test_word_starts_of_word_piece_and_metaspace() -> None:
    vocabulary = {"[UNK]": 0, "[MASK]": 1, "dog": 2, "##s": 3, ".": 4}
    pieces = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.decoder = tokenizers.decoders.WordPiece()
    assert Tokenizer(pieces).word_starts.tolist() == [True, True, True, False, True]
    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -1.0)], 0))
    unigram.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([tokenizers.pre_tokenizers.Metaspace()])
    assert Tokenizer(unigram).word_starts.tolist() == [True, True, False]


def test_word_starts_are_refused_where_the_spelling_does_not_tell() -> None:
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(InputError, match=r"byte-level, WordPiece or SentencePiece tokenizer.*WordLevel"):
        _ = Tokenizer(plain).word_starts


def test_line_ends(tokenizer: Tokenizer) -> None:
    for token in range(4, 299):
        assert tokenizer.line_ends[token] == ("\n" in tokenizer.decode([token]))
    pieces = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    with pytest.raises(InputError, match=r"takes a tokenizer that keeps line breaks, but this one has no"):
        _ = Tokenizer(pieces).line_ends


def test_a_folder_of_transformers_is_opened(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    saved = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, bos_token="<s>", eos_token="</s>", mask_token="<mask>", pad_token="<pad>"
    )
    saved.save_pretrained(tmp_path / "saved")
    loaded = Tokenizer.from_hub(str(tmp_path / "saved"))
    assert loaded.encode("the cat") == tokenizer.encode("the cat")
    assert (loaded.bos_id, loaded.eos_id, loaded.mask_id) == (0, 2, 299)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"`tokenizer.name` must be a tokenizer of the hub, a folder or a GGUF file"):
        Tokenizer.from_hub(str(tmp_path / "empty"))


def test_a_gguf_file_is_opened(tokenizer: Tokenizer, gguf_with_tokenizer: Callable, tmp_path: Path) -> None:
    file = gguf_with_tokenizer(tokenizer)
    for place in (file, file.parent):
        loaded = Tokenizer.from_hub(str(place))
        assert loaded.encode("the cat") == tokenizer.encode("the cat")
        assert (loaded.bos_id, loaded.eos_id) == (0, 2)


def test_extra_special_tokens_stand_before_the_mask(corpus_of: Callable, prose: Callable) -> None:
    recipe = ByteLevelBPE(vocab_size=300, special_tokens=["<fim_prefix>", "<fim_middle>"])
    trained = recipe.train(corpus_of(prose(100)))
    assert [trained.id_of(name) for name in ("<fim_prefix>", "<fim_middle>", "mask")] == [297, 298, 299]
    assert trained.special_ids.tolist() == [0, 1, 2, 3, 297, 298, 299]
    assert trained.decode(trained.encode("a <fim_prefix> b")) == "a <fim_prefix> b"
    assert recipe.fingerprint() != ByteLevelBPE(vocab_size=300).fingerprint()


def test_a_vocabulary_larger_than_the_corpus_can_fill(corpus_of: Callable) -> None:
    corpus = corpus_of(["abab abab abab"])
    with pytest.raises(
        InputError, match=r"`tokenizer.vocab_size` must be at most (\d+), .* use `tokenizer.vocab_size"
    ) as error:
        ByteLevelBPE(vocab_size=5000).train(corpus)
    possible = int(str(error.value).rpartition("=")[2].rstrip("`"))
    assert 261 < possible < 270
    assert ByteLevelBPE(vocab_size=possible).train(corpus).vocab_size == possible


def test_recipes_that_can_not_be() -> None:
    with pytest.raises(InputError, match=r"`tokenizer.vocab_size` must be at least 262 .* but is 261"):
        ByteLevelBPE(vocab_size=261, special_tokens=["<fim_prefix>"])
    assert ByteLevelBPE(vocab_size=261).vocab_size == 261
    with pytest.raises(InputError, match="must differ from each other"):
        ByteLevelBPE(special_tokens=["<mask>"])
    with pytest.raises(InputError, match=r"`tokenizer.max_bytes` must be positive, but is 0"):
        ByteLevelBPE(max_bytes=0)


def test_a_long_corpus_is_sampled_evenly(corpus_of: Callable) -> None:
    texts = ["early bird " * 40] * 100 + ["late worm " * 40] * 100

    class Sized(type(corpus_of([]))):
        def num_bytes(self) -> int:
            return sum(map(len, self.texts))

    recipe = ByteLevelBPE(vocab_size=276, max_bytes=20_000)
    assert len(recipe.train(Sized(texts)).encode("late worm")) < 9
    with pytest.raises(InputError, match="must be at most 270"):  # 261 and the merges of two words
        recipe.train(corpus_of(texts))


def test_numpy_ids_are_decoded(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(np.array(tokenizer.encode("the cat"), dtype=np.uint16)) == "the cat"


def test_which_tokenizers_keep_line_breaks(tokenizer: Tokenizer) -> None:
    assert vocabulary.keeps_line_breaks(tokenizer.backend)
    pieces = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    assert not vocabulary.keeps_line_breaks(pieces)
    # A line break in the vocabulary is not enough: the normaliser may have made a space of it.
    unigram = tokenizers.Tokenizer(
        tokenizers.models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("a", -1.0), ("b", -1.0), ("\n", -1.0)], 0)
    )
    assert vocabulary.keeps_line_breaks(unigram)
    unigram.normalizer = tokenizers.normalizers.Replace("\n", " ")
    assert not vocabulary.keeps_line_breaks(unigram)
    fallback = tokenizers.Tokenizer(
        tokenizers.models.BPE({"<unk>": 0, "a": 1, "b": 2, "<0x0A>": 3}, [], unk_token="<unk>", byte_fallback=True)
    )
    assert vocabulary.keeps_line_breaks(fallback)


def test_white_space(tokenizer: Tokenizer) -> None:
    blank = vocabulary.white_space(tokenizer.backend, tokenizer.vocab_size)
    for token in range(4, 299):
        text = tokenizer.decode([token])
        assert blank[token] == (text.isspace() and text[0] in " \t\n\v\f\r"), text
    unigram = tokenizers.Tokenizer(
        tokenizers.models.Unigram([("<unk>", 0.0), ("▁▁", -1.0), ("▁a", -1.0), ("\n", -1.0), ("<0x0A>", -1.0)], 0)
    )
    assert vocabulary.white_space(unigram, 5).tolist() == [False, True, False, True, True]
