from __future__ import annotations

import numpy as np
import pytest
import tokenizers

from lmmodules.batch import Section
from lmmodules.data import ByteLevelBPE, Corpus, Tokenizer
from lmmodules.data.fim_sentinels import Order, Pieces, Sentinels
from lmmodules.errors import InputError

PRE, SUF, MID, EOT = 900, 901, 902, 2
SENTINELS = Sentinels(PRE, SUF, MID, EOT)


def ids(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)


def arranged(prefix: str, middle: str, suffix: str, order: Order) -> list[int]:
    parts = SENTINELS.arrange(Pieces(ids(prefix), ids(middle), ids(suffix)), order)
    return np.concatenate([tokens for _, tokens in parts]).tolist()


def test_the_orders_of_the_paper() -> None:
    a, b, c, d, e, f = b"abcdef"
    assert arranged("ab", "cd", "ef", "psm") == [PRE, a, b, SUF, e, f, MID, c, d]
    assert arranged("ab", "cd", "ef", "spm") == [PRE, SUF, e, f, MID, a, b, c, d]


def test_an_empty_prefix_makes_both_orders_the_same() -> None:
    assert arranged("", "abcd", "ef", "psm") == arranged("", "abcd", "ef", "spm")


@pytest.mark.parametrize("order", ["psm", "spm"])
def test_every_token_knows_its_section(order: Order) -> None:
    parts = SENTINELS.arrange(Pieces(ids("ab"), ids("c"), ids("def")), order)
    found = {section: tokens.tolist() for section, tokens in parts if section != Section.SENTINEL}
    assert found == {Section.PREFIX: [*b"ab"], Section.MIDDLE: [*b"c"], Section.SUFFIX: [*b"def"]}
    assert sorted(t for section, tokens in parts if section == Section.SENTINEL for t in tokens) == [PRE, SUF, MID]


def test_a_prompt_is_what_training_has_in_front_of_a_middle() -> None:
    for order in ("psm", "spm"):
        assert SENTINELS.prompt([*b"ab"], [*b"ef"], order) == [EOT, *arranged("ab", "", "ef", order)]
    assert SENTINELS.prompt([], [], "spm") == [EOT, PRE, SUF, MID]


def test_restoring_undoes_arranging() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        documents, text = [], []
        for number in range(int(generator.integers(1, 5))):
            plain = generator.integers(10, 800, int(generator.integers(0, 12)))
            first, second = np.sort(generator.integers(0, len(plain) + 1, 2))
            order = ("psm", "spm", None)[int(generator.integers(3))]
            pieces = Pieces(plain[:first], plain[first:second], plain[second:])
            parts = [(0, plain)] if order is None else SENTINELS.arrange(pieces, order)
            end = [] if number == 3 else [EOT]
            documents += [np.concatenate([tokens for _, tokens in parts]), end]
            text += [plain, end]
        restored = SENTINELS.restore(np.concatenate(documents).astype(np.int64))
        assert restored.tolist() == np.concatenate(text).tolist()


def test_what_was_cut_off_is_missing_and_nothing_else() -> None:
    whole = np.array(arranged("ab", "cd", "ef", "psm"))
    assert bytes(SENTINELS.restore(whole[:-1]).tolist()) == b"abcef"
    assert bytes(SENTINELS.restore(whole[:5]).tolist()) == b"abe"
    assert bytes(SENTINELS.restore(whole[:2]).tolist()) == b"a"


class Words(Corpus):
    def documents(self):
        yield "some words, and more of them. " * 20

    def fingerprint(self) -> str:
        return "words"

    def describe(self) -> str:
        return "words"


NAMES = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]


def test_they_are_looked_up_by_name() -> None:
    tokenizer = ByteLevelBPE(270, special_tokens=NAMES).train(Words())
    assert Sentinels.of(tokenizer) == Sentinels(266, 267, 268, tokenizer.eos_id)
    assert Sentinels.of(tokenizer, "<fim_middle>", "<fim_prefix>", "<fim_suffix>").prefix == 268


def test_a_tokenizer_without_them_is_told_how_to_get_them() -> None:
    plain = ByteLevelBPE(270).train(Words())
    with pytest.raises(InputError, match=r"has no `<fim_middle>`, `<fim_prefix>`, `<fim_suffix>`; use `tokenizer=fim`"):
        Sentinels.of(plain)
    two = ByteLevelBPE(270, special_tokens=NAMES[:2]).train(Words())
    with pytest.raises(InputError, match="has no `<fim_middle>`;"):
        Sentinels.of(two)
    with pytest.raises(InputError, match="must differ"):
        Sentinels.of(two, NAMES[0], NAMES[0], NAMES[1])


def test_a_token_that_text_can_be_encoded_to_is_no_sentinel() -> None:
    tokenizer = ByteLevelBPE(270, special_tokens=NAMES[:2]).train(Words())
    tokenizer.backend.add_tokens([NAMES[2]])
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    with pytest.raises(InputError, match="has no `<fim_middle>`"):
        Sentinels.of(Tokenizer(backend))
