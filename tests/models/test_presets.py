from __future__ import annotations

import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.models import Alibi, LanguageModelHead
from lmmodules.models.presets import PRESETS, build

PUBLISHED = {
    # Counted from the shapes of the released weights, without pooler and head.
    "bert_base": 108_891_648,
    "roberta_base": 124_055_040 - 768,  # the single token type is in the positions
    "roberta_large": 354_310_144 - 1024,
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
    "bloom_560m": 559_214_592,
    "smollm2_135m": 134_515_008,
}


@pytest.fixture(autouse=True)
def _on_meta():
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_of_parameters(name):
    assert build(name).num_parameters() == PUBLISHED[name]


def test_roberta_with_its_head():
    """The figures of fairseq's models, tied."""
    for name, count in (("roberta_base", 124_696_665), ("roberta_large", 355_411_033)):
        backbone = build(name)
        head = LanguageModelHead(backbone.hidden_size, backbone.vocab_size, transform=True, bias=True)
        assert backbone.num_parameters() + sum(parameter.numel() for parameter in head.parameters()) == count
        assert backbone.position.table.weight.shape[0] == 514


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in PUBLISHED])
def test_small_presets_take_the_vocabulary_of_a_tokenizer(name):
    backbone = build(name, vocab_size=1000)
    assert backbone.vocab_size == 1000
    assert backbone.causal == name.startswith("decoder")
    assert backbone.max_length == (None if backbone.causal else 512)
    with pytest.raises(InputError, match=f"`vocab_size` must be given for {name}"):
        build(name)


def test_changes():
    backbone = build("gpt2", vocab_size=50304, max_length=2048, dropout=0.0, attention_dropout=0.3)
    assert backbone.token_embedding.weight.shape[0] == 50304
    assert backbone.position.table.weight.shape == (2048, 768)
    assert backbone.dropout.p == 0.0
    assert backbone.blocks[0].attention.dropout == 0.3
    assert isinstance(build("gpt2", position=Alibi(12)).position, Alibi)
    assert build("gpt2", position=Alibi(12)).num_parameters() == PUBLISHED["gpt2"] - 1024 * 768


def test_unknown_names():
    with pytest.raises(InputError, match=r"`name` must be one of bert_base, .*, but is 'gpt5'"):
        build("gpt5")
