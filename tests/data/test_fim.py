from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from lmmodules.batch import IGNORED, CausalBatch, FimBatch, Section, check_batch, provides
from lmmodules.data import Blocks, ByteLevelBPE, Corpus, CorpusDataModule, NextToken, SampleKeys, Tokenizer
from lmmodules.data.fim import FillInTheMiddle
from lmmodules.data.fim_sentinels import Sentinels
from lmmodules.data.fim_spelling import Spelling
from lmmodules.errors import InputError

NAMES = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
LETTERS = [
    *"abcdefg  \n\t.,1",
    "\u4f60",
    "\u00e9",
    "\U0001f642",
    "e\u0301",
    "\r\n",
    "word",
    " and",
    "<fim_middle>",
    "</s>",
]


def write(generator: np.random.Generator, size: int) -> str:
    return "".join(LETTERS[number] for number in generator.integers(len(LETTERS), size=size))


class Texts(Corpus):
    def __init__(self, num_documents: int = 300, size: int = 60) -> None:
        generator = np.random.default_rng(3)
        self.texts = [write(generator, int(generator.integers(1, 2 * size))) for _ in range(num_documents)]

    def documents(self) -> Iterator[str]:
        yield from self.texts

    def fingerprint(self) -> str:
        return f"texts{len(self.texts)}"

    def describe(self) -> str:
        return "texts"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return ByteLevelBPE(400, special_tokens=NAMES).train(Texts())


@pytest.fixture(scope="module")
def sentinels(tokenizer: Tokenizer) -> Sentinels:
    return Sentinels.of(tokenizer)


Transformed = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def transformed(tokenizer: Tokenizer) -> Transformed:
    """Whole samples, input and last label together, with their sections: (B, L) each."""

    def run(tokens: np.ndarray, seed: int = 0, epoch: int = 0, first: int = 0, **options: Any) -> dict[str, np.ndarray]:
        lengths = options.pop("lengths", None)
        document_ids = options.pop("document_ids", None)
        keys = SampleKeys(seed, np.full(len(tokens), epoch), np.arange(first, first + len(tokens)))
        blocks = Blocks(tokens.astype(np.uint16), lengths, document_ids)
        batch = FillInTheMiddle(**options).bind(tokenizer)(blocks, keys)
        check_batch(batch, FimBatch, "test")
        found = {name: tensor.numpy() for name, tensor in batch.items()}
        inputs, labels = found["input_ids"], found["labels"]
        found["tokens"] = np.concatenate([inputs, labels[:, -1:]], axis=1)
        return found

    return run


def padded(tokenizer: Tokenizer, texts: list[str], length: int, end: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A document per row and room behind it."""
    tokens = np.full((len(texts), length), tokenizer.pad_id)
    lengths = []
    for row, ids in enumerate(tokenizer.encode_batch(texts)):
        ids = [*ids, tokenizer.eos_id] if end else ids
        tokens[row, : len(ids)] = ids
        lengths.append(len(ids))
    return tokens, np.array(lengths)


def stream(tokenizer: Tokenizer, rows: int, length: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    texts = [write(generator, int(generator.integers(0, 120))) for _ in range(rows * length // 40)]
    ids = [token for text in tokenizer.encode_batch(texts) for token in [*text, tokenizer.eos_id]]
    return np.array(ids[7 : 7 + rows * length]).reshape(rows, length)


def test_it_yields_more_than_a_causal_batch() -> None:
    assert FillInTheMiddle.batch_type is FimBatch
    assert provides(FimBatch, CausalBatch)
    assert not provides(CausalBatch, FimBatch)


def test_a_rate_of_nothing_is_next_token_prediction(tokenizer: Tokenizer) -> None:
    tokens = stream(tokenizer, 8, 65)
    keys = SampleKeys(0, np.zeros(8, dtype=int), np.arange(8))
    plain = NextToken()(Blocks(tokens), keys)
    ours = FillInTheMiddle(fim_rate=0.0).bind(tokenizer)(Blocks(tokens), keys)
    assert (ours.pop("sections") == Section.UNTOUCHED).all()
    assert ours.keys() == plain.keys()
    for name, tensor in plain.items():
        assert torch.equal(ours[name], tensor)


@pytest.mark.parametrize("span", ["character", "token", "line"])
@pytest.mark.parametrize("spm_rate", [0.0, 0.5, 1.0])
def test_every_document_turns_back_into_its_text(
    tokenizer: Tokenizer, sentinels: Sentinels, transformed: Transformed, span: str, spm_rate: float
) -> None:
    generator = np.random.default_rng(5)
    texts = [write(generator, int(generator.integers(0, 40))) for _ in range(400)] + [
        "",
        "x",
        "xy",
        "\u4f60",
        "\n",
        "\r\n",
    ]
    tokens, lengths = padded(tokenizer, texts, 220)
    found = transformed(tokens, lengths=lengths, fim_rate=1.0, spm_rate=spm_rate, span=span)
    spelling = Spelling(tokenizer)
    sizes = [found["attention_mask"][row].sum() for row in range(len(texts))]
    for row, text in enumerate(texts):
        sample = found["tokens"][row, : sizes[row]]
        restored = sentinels.restore(sample)
        assert spelling.text(restored).decode() == text
        assert restored[-1] == tokenizer.eos_id
        marks = [int((sample == mark).sum()) for mark in (sentinels.prefix, sentinels.suffix, sentinels.middle)]
        assert marks == ([1, 1, 1] if text else [0, 0, 0])
    orders = {bool(row[1] == sentinels.suffix) for row in found["tokens"][:400] if row[0] == sentinels.prefix}
    assert orders == {0.0: {False, True}, 0.5: {False, True}, 1.0: {True}}[spm_rate]


def slow(tokenizer: Tokenizer, row: np.ndarray, draws: np.ndarray, rate: float, spm_rate: float) -> list[int]:
    """The paper's way: split at end tokens, decode, cut, encode the pieces, permute, join."""
    pre, suf, mid = (tokenizer.id_of(name) for name in NAMES)
    written: list[int] = []
    parts = np.split(row, np.flatnonzero(row == tokenizer.eos_id))
    for number, part in enumerate(parts):
        if number:
            written.append(tokenizer.eos_id)
            part = part[1:]
        whether, order, *cuts = draws[number]
        if not len(part) or whether >= rate:
            written += part.tolist()
            continue
        text = tokenizer.decode(part.tolist())
        first, second = sorted(int(cut * (len(text) + 1)) for cut in cuts)
        prefix, middle, suffix = tokenizer.encode_batch([text[:first], text[first:second], text[second:]])
        if order < spm_rate:
            written += [pre, suf, *suffix, mid, *prefix, *middle]
        else:
            written += [pre, *prefix, suf, *suffix, mid, *middle]
    return written


def test_blocks_are_those_of_decoding_cutting_and_encoding(tokenizer: Tokenizer, transformed: Transformed) -> None:
    tokens = stream(tokenizer, 120, 129)
    # Half characters have no text to decode to; they have a test of their own.
    whole = [row for row in tokens if "\ufffd" not in tokenizer.decode(row.tolist())]
    tokens = np.array(whole)
    assert len(tokens) > 40
    found = transformed(tokens, fim_rate=0.7, spm_rate=0.4)
    keys = SampleKeys(0, np.zeros(len(tokens), dtype=int), np.arange(len(tokens)))
    draws = keys.uniform("fim/context", 4 * 130).reshape(len(tokens), 130, 4)
    trimmed = 0
    for row in range(len(tokens)):
        expected = slow(tokenizer, tokens[row], draws[row], 0.7, 0.4)
        trimmed += len(expected) > 129
        size = min(len(expected), 129)
        assert found["tokens"][row, :size].tolist() == expected[:size]
    assert trimmed > 20, "re-encoding and sentinels make most samples longer"


def test_half_characters_stay_at_the_ends(tokenizer: Tokenizer, sentinels: Sentinels, transformed: Transformed) -> None:
    bytewise = ByteLevelBPE(264, special_tokens=NAMES).train(Texts())
    spelling, ours = Spelling(bytewise), Sentinels.of(bytewise)
    text = "a\u4f60\U0001f642 b\u00e9\u4e16\n" * 3
    ids = np.array(bytewise.encode(text))
    generator = np.random.default_rng(0)
    for number in range(300):
        start, stop = np.sort(generator.integers(0, len(ids) + 1, 2))
        if stop - start < 2:
            continue
        tokens = np.full((1, 80), bytewise.pad_id)
        tokens[0, : stop - start] = ids[start:stop]
        keys = SampleKeys(0, np.zeros(1, dtype=int), np.array([number]))
        blocks = Blocks(tokens, np.array([stop - start]))
        batch = FillInTheMiddle(fim_rate=1.0).bind(bytewise)(blocks, keys)
        sample = torch.cat([batch["input_ids"][0], batch["labels"][0, -1:]]).numpy()
        sample = sample[: int(batch["attention_mask"].sum())]
        assert spelling.text(ours.restore(sample)) == spelling.text(ids[start:stop])


def test_shares_are_those_asked_for(tokenizer: Tokenizer, sentinels: Sentinels, transformed: Transformed) -> None:
    number = 20_000
    tokens = np.full((number, 14), tokenizer.encode("x")[0])
    tokens[:, 9] = tokenizer.eos_id
    tokens[:, 10:] = tokenizer.pad_id
    lengths = np.full(number, 10)
    found = transformed(tokens, lengths=lengths, fim_rate=0.3, spm_rate=0.25, span="token")["tokens"]
    moved = found[:, 0] == sentinels.prefix
    assert moved.mean() == pytest.approx(0.3, abs=3 * (0.3 * 0.7 / number) ** 0.5)
    # An empty prefix looks the same in both orders: 0.19 of the documents.
    looks = (found[moved, 1] == sentinels.suffix).mean()
    assert looks == pytest.approx(0.25 + 0.75 * 0.19, abs=3 * (0.25 / moved.sum()) ** 0.5)


def test_samples_keep_their_length_and_their_ends(tokenizer: Tokenizer, transformed: Transformed) -> None:
    tokens = stream(tokenizer, 50, 129)
    tokens[:, 20:22] = tokenizer.eos_id  # an empty document
    found = transformed(tokens, fim_rate=1.0)
    assert found["tokens"].shape == tokens.shape
    assert "attention_mask" not in found
    before, after = (tokens == tokenizer.eos_id).sum(1), (found["tokens"] == tokenizer.eos_id).sum(1)
    assert (after <= before).all(), "an end may be cut off at the end of a sample, and none is made"
    assert (after >= before - 2).all()
    for row in found["tokens"]:
        ends = np.flatnonzero(row == tokenizer.eos_id)
        assert (np.diff(ends) == 1).any(), "two ends in a row stay two"


def test_the_last_part_has_no_end(tokenizer: Tokenizer, sentinels: Sentinels, transformed: Transformed) -> None:
    tokens, lengths = padded(tokenizer, ["a text that goes on in another sample"], 80, end=False)
    found = transformed(tokens, lengths=lengths, fim_rate=1.0)
    assert tokenizer.eos_id not in found["tokens"][0, : found["attention_mask"].sum()]


def test_a_middle_is_kept_at_the_cost_of_its_suffix(
    tokenizer: Tokenizer, sentinels: Sentinels, transformed: Transformed
) -> None:
    tokens = stream(tokenizer, 60, 129)
    cut = transformed(tokens, fim_rate=1.0)
    kept = transformed(tokens, fim_rate=1.0, keep_middle=True)
    spelling = Spelling(tokenizer)
    ended = 0
    for row in range(60):
        whole = spelling.text(sentinels.restore(tokens[row]))
        if tokens[row, -1] == tokenizer.eos_id:
            continue
        last = np.split(kept["tokens"][row], np.flatnonzero(kept["tokens"][row] == tokenizer.eos_id) + 1)[-2]
        if len(np.flatnonzero(last == sentinels.middle)):
            ended += kept["tokens"][row, -1] == tokenizer.eos_id
            assert kept["sections"][row, -1] == Section.END or kept["tokens"][row, -1] != tokenizer.eos_id
            pieces = spelling.text(last[np.flatnonzero(last == sentinels.middle)[0] + 1 :])
            assert pieces in whole, "the middle is whole"
    assert ended > 15, "as often as a part at the end of a sample is left that has room for a suffix"
    assert (cut["tokens"][:, -1] == tokenizer.eos_id).sum() < 10
    padded_tokens, lengths = padded(tokenizer, ["it goes on"], 60, end=False)
    room = transformed(padded_tokens, lengths=lengths, fim_rate=1.0, keep_middle=True)
    sample = room["tokens"][0, : room["attention_mask"].sum()]
    assert sample[-1] == tokenizer.eos_id
    assert spelling.text(sentinels.restore(sample)) == b"it goes on"


def test_sections_are_those_of_the_labels(tokenizer: Tokenizer, transformed: Transformed) -> None:
    text = "prefix middle suffix"
    tokens, lengths = padded(tokenizer, [text] * 200, 80)
    found = transformed(tokens, lengths=lengths, fim_rate=0.5, spm_rate=0.5)
    labels, sections = found["labels"], found["sections"]
    marks = {tokenizer.id_of(name) for name in NAMES}
    spelling = Spelling(tokenizer)
    moved = 0
    for row in range(200):
        counted = labels[row] != IGNORED
        assert set(labels[row][sections[row] == Section.SENTINEL].tolist()) <= marks
        assert marks.isdisjoint(labels[row][sections[row] != Section.SENTINEL].tolist())
        if (sections[row][counted] == Section.UNTOUCHED).all():
            continue
        moved += 1
        pieces = [
            spelling.text(labels[row][counted & (sections[row] == section)]).decode()
            for section in (Section.PREFIX, Section.MIDDLE, Section.SUFFIX)
        ]
        assert "".join(pieces) == text
        last = np.flatnonzero(counted)[-1]
        assert sections[row, last] == Section.END
        assert labels[row, last] == tokenizer.eos_id, "the end is asked for: it is how a model stops"
    assert 60 < moved < 140


def test_sentinels_are_asked_for_unless_masked(tokenizer: Tokenizer, transformed: Transformed) -> None:
    tokens = stream(tokenizer, 20, 129)
    plain = transformed(tokens, fim_rate=0.9)
    masked = transformed(tokens, fim_rate=0.9, mask_sentinels=True)
    are_sentinels = plain["sections"] == Section.SENTINEL
    assert are_sentinels.sum() > 50
    assert (plain["labels"] != IGNORED).all()
    assert (masked["labels"][are_sentinels] == IGNORED).all()
    assert (masked["labels"][~are_sentinels] == plain["labels"][~are_sentinels]).all()
    assert (masked["input_ids"] == plain["input_ids"]).all()


def test_padding_is_never_asked_for_and_sentinels_grow_into_it(tokenizer: Tokenizer, transformed: Transformed) -> None:
    texts = ["a short one", "a longer one with some words", "x" * 60]
    tokens, lengths = padded(tokenizer, texts, 70)
    found = transformed(tokens, lengths=lengths, fim_rate=1.0)
    sizes = found["attention_mask"].sum(1)
    assert (sizes[:2] >= lengths[:2] + 2).all()
    for row, size in enumerate(sizes):
        assert (found["labels"][row, size - 1 :] == IGNORED).all() or size == 69
        assert (found["labels"][row, : size - 1] != IGNORED).all()
        assert (found["input_ids"][row, size:] == tokenizer.pad_id).all()


def test_the_pieces_of_a_document_see_each_other(tokenizer: Tokenizer, transformed: Transformed) -> None:
    tokens = stream(tokenizer, 10, 129)
    is_end = tokens == tokenizer.eos_id
    given = np.cumsum(is_end, axis=1) - is_end
    found = transformed(tokens, fim_rate=1.0, document_ids=given)
    inputs, ids = found["input_ids"], found["document_ids"]
    is_end = inputs == tokenizer.eos_id
    assert (ids == np.cumsum(is_end, axis=1) - is_end).all()
    assert (ids.max(1) >= given.max(1) - 2).all()


@pytest.mark.parametrize("text", ["", "x", "xy", "\u4f60", "\U0001f642", "\n"])
@pytest.mark.parametrize("span", ["character", "token", "line"])
def test_documents_of_next_to_nothing(
    tokenizer: Tokenizer, sentinels: Sentinels, transformed: Transformed, text: str, span: str
) -> None:
    tokens, lengths = padded(tokenizer, [text] * 60, 20)
    found = transformed(tokens, lengths=lengths, fim_rate=1.0, spm_rate=0.0, span=span)
    seen = set()
    for row in range(60):
        sample = found["tokens"][row, : found["attention_mask"][row].sum()]
        seen.add(tuple(sample.tolist()))
        assert Spelling(tokenizer).text(sentinels.restore(sample)).decode() == text
    places = len(text) + 1 if span == "character" else len(tokenizer.encode(text)) + 1 if span == "token" else 2
    assert len(seen) == (places * (places + 1) // 2 if text else 1), "every pair of cuts, both ends included"


def test_the_names_of_sentinels_in_a_text_are_text(
    tokenizer: Tokenizer, sentinels: Sentinels, transformed: Transformed
) -> None:
    text = "<fim_prefix>a<fim_suffix>b</s><fim_middle>"
    tokens, lengths = padded(tokenizer, [text] * 50, 90)
    found = transformed(tokens, lengths=lengths, fim_rate=1.0)["tokens"]
    assert ((found == sentinels.prefix).sum(1) == 1).all()
    for row in found:
        sample = row[: np.flatnonzero(row == tokenizer.eos_id)[0]]
        assert Spelling(tokenizer).text(sentinels.restore(sample)).decode() == text


def test_a_document_with_a_special_token_in_it_is_left_alone(
    tokenizer: Tokenizer, sentinels: Sentinels, transformed: Transformed
) -> None:
    tokens = np.array(
        [[*tokenizer.encode("some words and others")[:4], sentinels.suffix, 50, 51, tokenizer.eos_id]] * 20
    )
    found = transformed(tokens, fim_rate=1.0)
    assert (found["tokens"] == tokens).all()
    assert (found["sections"] == Section.UNTOUCHED).all()


def test_samples_depend_on_seed_epoch_and_index_alone(tokenizer: Tokenizer, transformed: Transformed) -> None:
    tokens = stream(tokenizer, 12, 129)
    whole = transformed(tokens)["tokens"]
    parts = [transformed(tokens[start : start + 3], first=start)["tokens"] for start in range(0, 12, 3)]
    assert (np.concatenate(parts) == whole).all()
    assert (transformed(tokens, epoch=1)["tokens"] != whole).any(axis=1).sum() > 6
    assert (transformed(tokens, seed=1)["tokens"] != whole).any(axis=1).sum() > 6


@pytest.mark.slow
def test_workers_change_nothing() -> None:
    def batches(num_workers: int) -> list[torch.Tensor]:
        data = CorpusDataModule(
            Texts(),
            ByteLevelBPE(400, special_tokens=NAMES),
            FillInTheMiddle(),
            max_length=64,
            batch_size=4,
            num_workers=num_workers,
        ).prepare()
        loader = data.train_dataloader()
        found = [batch["input_ids"] for batch, _ in zip(loader, range(12))]  # noqa: B905 (the stream has no end)
        loader.close()
        return found

    for one, other in zip(batches(0), batches(2), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fim_rate": 1.5}, "`fim_rate` must lie between 0 and 1, but is 1.5; use `transform.fim_rate=0.5`"),
        ({"fim_rate": -0.1}, "`fim_rate` must lie between 0 and 1"),
        ({"spm_rate": 2}, "`spm_rate` must lie between 0 and 1, but is 2; use `transform.spm_rate=0.5`"),
        (
            {"span": "word"},
            "`span` must be one of character, token, line, but is 'word'; use `transform.span=character`",
        ),
        ({"keep_middle": True, "level": "document"}, "`keep_middle` is for the context level"),
        ({"level": "block"}, "`level` must be one of context, document, but is 'block'; use `transform.level=context`"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        FillInTheMiddle(**options)
    assert sentence in str(error.value)


def test_a_tokenizer_without_sentinels_is_refused_when_it_is_bound() -> None:
    plain = ByteLevelBPE(300).train(Texts())
    with pytest.raises(InputError, match="use `tokenizer=fim`"):
        FillInTheMiddle().bind(plain)


def test_token_spans_take_any_tokenizer_and_character_spans_do_not(tokenizer: Tokenizer) -> None:
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"</s>": 0, "a": 1, "b": 2}, unk_token="a"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(["</s>", *NAMES])
    words = Tokenizer(backend)
    keys = SampleKeys(0, np.zeros(5, dtype=int), np.arange(5))
    batch = FillInTheMiddle(fim_rate=1.0, span="token").bind(words)(Blocks(np.array([[1, 2, 1, 2, 1, 1, 2]] * 5)), keys)
    assert (batch["input_ids"][:, 0] == words.id_of(NAMES[0])).all()
    with pytest.raises(InputError, match=r"use `tokenizer=fim` or `transform\.span=token`"):
        FillInTheMiddle().bind(words)


def test_names_of_sentinels_can_be_others() -> None:
    names = ["<P>", "<S>", "<M>"]
    other = ByteLevelBPE(300, special_tokens=names).train(Texts())
    transform = FillInTheMiddle(fim_rate=1.0, prefix_token="<P>", suffix_token="<S>", middle_token="<M>").bind(other)
    keys = SampleKeys(0, np.zeros(1, dtype=int), np.arange(1))
    batch = transform(Blocks(np.array([other.encode("some words, no more")[:12]])), keys)
    assert batch["input_ids"][0, 0] == other.id_of("<P>")
