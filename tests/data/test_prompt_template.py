"""The template language, and what becomes of it in a masked and a causal row."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from lmmodules.data import Tokenizer
from lmmodules.data.prompt_rows import PromptLayout
from lmmodules.data.prompt_template import Anchor, Input, PromptTemplate, PseudoTokens, Separator, Target
from lmmodules.errors import InputError

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "paris", "is", "?", "in", "france", "long", "words", "."]


@pytest.fixture
def tokenizer() -> Tokenizer:
    backend = Backend(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenizer(backend)


def told(row, tokenizer: Tokenizer) -> str:
    return " ".join(
        f"P{prompt}" if prompt >= 0 else WORDS[token]
        for token, prompt in zip(row.input_ids, row.prompt_ids, strict=True)
    )


def test_parts_stand_in_any_order() -> None:
    template = PromptTemplate("{prompt:2} {x|shorten}{sep}is{prompt} it {target}.")
    assert template.parts == (
        PseudoTokens(2),
        Input("x", " ", True),
        Separator(),
        Anchor("is"),
        PseudoTokens(1),
        Anchor(" it"),
        Target(" "),
        Anchor("."),
    )
    assert (template.num_prompt_tokens, template.fields) == (3, ["x"])
    assert template.fill({"x": "Y"}) == "<P><P> Y<sep>is<P> it<target>."


def test_a_prefix_is_told_from_the_rest() -> None:
    assert PromptTemplate("{prompt:3} {x} {target}").is_prefix
    assert not PromptTemplate("{prompt:3} {x} {prompt} {target}").is_prefix
    assert not PromptTemplate("{x} {target}").is_prefix


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{prompt} {x}", "none"),
        ("{target} {x} {target}", "has 2"),
        ("{x {target}", "belongs to none"),
        ("{prompt:0} {target}", "one pseudo-token"),
        ("{x:2} {target}", "number pseudo-tokens only"),
        ("{prompt|shorten} {target}", "shorten fields only"),
    ],
)
def test_what_is_no_template_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        PromptTemplate(text)


def test_a_field_that_rows_lack_is_refused() -> None:
    with pytest.raises(InputError, match="names y"):
        PromptTemplate("{y} {target}").check_fields(["x"])


def test_rows_of_a_masked_model(tokenizer: Tokenizer) -> None:
    template = PromptTemplate("{prompt:2} {x} {prompt} {target} is ?")
    layout = PromptLayout(tokenizer, causal=False, max_length=20)
    row = layout.rows(template, {"x": ["paris in"]}, [[9]], first_prompt=4)[0]
    assert told(row, tokenizer) == "<s> P4 P5 paris in P6 <mask> is ? </s>"
    assert [(place, label) for place, label in enumerate(row.labels) if label >= 0] == [(6, 9)]
    row = layout.rows(template, {"x": ["paris"]}, [[9, 5]], num_masks=[3])[0]
    assert told(row, tokenizer) == "<s> P0 P1 paris P2 <mask> <mask> <mask> is ? </s>"
    assert row.labels[5:8] == [9, 5, -100]


def test_rows_of_a_causal_model_end_before_the_answer(tokenizer: Tokenizer) -> None:
    template = PromptTemplate("{prompt:2} {x} {prompt} {target} .").before_target()
    layout = PromptLayout(tokenizer, causal=True, max_length=20)
    row = layout.rows(template, {"x": ["paris in"]}, [[9]])[0]
    assert told(row, tokenizer) == "P0 P1 paris in P2"
    assert row.labels == [-100] * 4 + [9]
    row = layout.rows(template, {"x": ["paris"]}, [[9, 5]])[0]
    assert told(row, tokenizer) == "P0 P1 paris P2 france"
    assert row.labels == [-100, -100, -100, 9, 5]


def test_a_causal_model_does_not_see_what_is_behind() -> None:
    with pytest.raises(InputError, match="must not have a pseudo-token behind"):
        PromptTemplate("{x} {target} {prompt}").before_target()
    with pytest.raises(InputError, match="something before"):
        PromptTemplate("{target} {x}").before_target()


def test_only_what_may_be_shortened_is(tokenizer: Tokenizer) -> None:
    template = PromptTemplate("{x|shorten} is {y|shorten} {target}")
    layout = PromptLayout(tokenizer, causal=False, max_length=10)
    columns = {"x": ["long words long words long words"], "y": ["in france"]}
    row = layout.rows(template, columns, [[9]])[0]
    assert told(row, tokenizer) == "<s> long words long words is in france <mask> </s>"
    with pytest.raises(InputError, match="max_length=12"):
        layout.rows(PromptTemplate("{x} is {y} {target}"), columns, [[9]])
