"""Any model of transformers behind the protocol of a backbone: its own numbers, through our arguments."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lmmodules.errors import InputError
from lmmodules.models import Backbone, KVCache
from lmmodules.models.hugging_face_backbone import HuggingFaceBackbone
from lmmodules.models.hugging_face_fields import longest

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

IDS = torch.randint(3, 37, (2, 9), generator=torch.Generator().manual_seed(0))
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
# Families that are not read into `Transformer`, one that is, and whether they are causal.
CONFIGS = {
    "DistilBert": ({"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 20}, False),
    "Albert": ({**SIZES, "embedding_size": 8}, False),
    "MPNet": ({**SIZES, "max_position_embeddings": 22}, False),
    "Bert": (SIZES, False),
    "OPT": ({**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16}, True),
    "Qwen3": ({**SIZES, "num_key_value_heads": 1, "head_dim": 8}, True),
    "GPT2": ({"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 20}, True),
}
CAUSAL = [name for name, (_, causal) in CONFIGS.items() if causal]
BIDIRECTIONAL = [name for name, (_, causal) in CONFIGS.items() if not causal]


def config_of(name: str, **changes):
    sizes = {"vocab_size": 37, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    return getattr(transformers, f"{name}Config")(**{**sizes, **CONFIGS[name][0], **changes})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders with random models, as `save_pretrained` leaves them."""

    def save(name: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"saved_{name}"
        if not folder.exists():
            torch.manual_seed(0)
            transformers.AutoModel.from_config(config_of(name)).save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def pair(saved):
    """The wrapped model and the plain one."""

    def load(name: str):
        plain = transformers.AutoModel.from_pretrained(saved(name)).eval()
        return HuggingFaceBackbone(str(saved(name))).eval(), plain

    return load


@pytest.mark.parametrize("name", CONFIGS)
class TestProtocol:
    def test_attributes(self, pair, name):
        backbone, plain = pair(name)
        assert isinstance(backbone, Backbone)
        assert backbone.causal == CONFIGS[name][1]
        assert (backbone.vocab_size, backbone.hidden_size, backbone.num_layers) == (37, 16, 2)
        assert (backbone.num_heads, backbone.head_dim, backbone.max_length) == (2, 8, 20)
        assert backbone.num_kv_heads == (1 if name == "Qwen3" else 2)
        assert backbone.token_embedding is backbone.model.get_input_embeddings()
        assert len(backbone.blocks) == (1 if name == "Albert" else 2)
        assert backbone.num_parameters() == sum(
            parameter.numel() for part, parameter in plain.named_parameters() if "pooler" not in part
        )

    def test_hidden_states(self, pair, name):
        backbone, plain = pair(name)
        assert torch.equal(backbone(IDS), plain(input_ids=IDS).last_hidden_state)
        embeddings = backbone.token_embedding(IDS)
        torch.testing.assert_close(backbone(inputs_embeds=embeddings), backbone(IDS))

    def test_rows(self, pair, name):
        backbone, _ = pair(name)
        rows = torch.tensor([2, 11, 17])
        assert torch.equal(backbone(IDS, rows=rows), backbone(IDS).flatten(0, 1)[rows])

    def test_padding_is_not_seen(self, pair, name):
        backbone, _ = pair(name)
        mask = torch.ones_like(IDS)
        mask[0, 5:] = 0
        ids = torch.where(mask.bool(), IDS, 1)
        hidden = backbone(ids, attention_mask=mask)
        torch.testing.assert_close(hidden[0, :5], backbone(IDS[:1, :5])[0], atol=1e-5, rtol=1e-5)
        if not backbone.causal:
            assert (backbone(ids)[0, :5] - hidden[0, :5]).abs().max() > 1e-3

    def test_gradients_reach_every_parameter(self, pair, name):
        backbone, _ = pair(name)
        backbone(IDS).square().sum().backward()
        assert [part for part, parameter in backbone.named_parameters() if parameter.grad is None] == []

    def test_it_is_made_again_from_its_own_fields(self, pair, name, monkeypatch):
        backbone, _ = pair(name)
        monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", None)
        again = HuggingFaceBackbone("gone", config=backbone.fields, causal=backbone.causal).eval()
        assert (again(IDS) - backbone(IDS)).abs().max() > 1e-2
        again.load_state_dict(backbone.state_dict(), strict=True)
        assert torch.equal(again(IDS), backbone(IDS))
        assert again.fields == backbone.fields
        assert (again.causal, again.max_length) == (backbone.causal, backbone.max_length)

    def test_the_meta_device(self, saved, name):
        with torch.device("meta"):
            backbone = HuggingFaceBackbone(str(saved(name)), weights=False)
        assert all(parameter.is_meta for parameter in backbone.parameters())

    def test_arithmetic_is_counted(self, pair, name):
        backbone, _ = pair(name)
        usual = 4 * 16 * 16 + 2 * 16 * 24
        layer = {"GPT2": 12 * 16 * 16, "Qwen3": 3 * 16 * 16 + 3 * 16 * 24}.get(name, usual)
        assert backbone.flops_per_token(5) == 2 * 2 * layer + 2 * 2 * (2 * 5 * 16)


class TestOptions:
    def test_training_is_training(self, saved):
        backbone = HuggingFaceBackbone(str(saved("Bert")))
        assert backbone.training
        assert all(module.training for module in backbone.modules())
        assert not torch.equal(backbone(IDS), backbone(IDS))

    def test_weights_are_taken_or_drawn(self, saved):
        published = HuggingFaceBackbone(str(saved("Bert"))).token_embedding.weight
        torch.manual_seed(1)
        drawn = HuggingFaceBackbone(str(saved("Bert")), weights=False).token_embedding.weight
        assert not torch.equal(published, drawn)
        assert 0.25 < drawn.std() < 0.35

    def test_a_vocabulary_of_its_own_needs_weights_of_its_own(self, saved):
        assert (
            HuggingFaceBackbone(str(saved("GPT2")), weights=False, vocab_size=50).token_embedding.weight.shape[0] == 50
        )
        with pytest.raises(InputError, match=r"must be that of the weights of .* \(37\), but is 50; use `model.vocab"):
            HuggingFaceBackbone(str(saved("GPT2")), vocab_size=50)

    def test_what_can_be_either_is_what_is_said(self, saved):
        changed = torch.cat((IDS[:, :-1], 39 - IDS[:, -1:]), dim=1)
        for causal in (True, False):
            backbone = HuggingFaceBackbone(str(saved("Bert")), causal=causal).eval()
            assert backbone.causal is causal
            moved = (backbone(IDS) - backbone(changed))[:, :-1].abs().max()
            assert (moved < 1e-5) == causal
            assert HuggingFaceBackbone(config=backbone.fields).causal is causal

    @pytest.mark.parametrize("name", [*CAUSAL, *BIDIRECTIONAL])
    def test_what_cannot_is_not(self, saved, name):
        causal = CONFIGS[name][1]
        if name == "Bert":
            return
        with pytest.raises(InputError, match=f"`model.causal` must be {causal} or left out, because a .* model is"):
            HuggingFaceBackbone(str(saved(name)), causal=not causal)

    def test_a_kind_that_does_not_tell_is_asked_for_and_looked_at(self, tmp_path):
        config = transformers.XLNetConfig(vocab_size=37, d_model=16, n_layer=2, n_head=2, d_inner=24)
        transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
        # Listed among the decoders, and yet it sees what comes after.
        with pytest.raises(InputError, match=r"`model.causal` must be False, because a `XLNetModel` is bidirectional"):
            HuggingFaceBackbone(str(tmp_path))

    def test_the_precision_is_the_default_one(self, saved):
        torch.set_default_dtype(torch.float64)
        try:
            assert HuggingFaceBackbone(str(saved("Bert"))).token_embedding.weight.dtype == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)

    def test_save_is_opened_by_transformers(self, pair, tmp_path):
        backbone, plain = pair("DistilBert")
        with torch.no_grad():
            backbone.token_embedding.weight.add_(0.1)
        assert backbone.save(tmp_path) == "DistilBertModel"
        reopened = transformers.AutoModel.from_pretrained(tmp_path).eval()
        assert torch.equal(reopened(input_ids=IDS).last_hidden_state, backbone(IDS))
        assert not torch.equal(plain(input_ids=IDS).last_hidden_state, backbone(IDS))


class TestCache:
    @pytest.mark.parametrize("name", CAUSAL)
    @pytest.mark.parametrize("chunk", [1, 4])
    def test_decoding_in_pieces(self, pair, name, chunk):
        backbone, _ = pair(name)
        cache = KVCache.for_backbone(backbone, 2, 9)
        pieces = [backbone(part, cache=cache) for part in IDS.split(chunk, dim=1)]
        assert cache.length == 9
        torch.testing.assert_close(torch.cat(pieces, dim=1), backbone(IDS), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("name", CAUSAL)
    def test_padding_on_the_left_is_not_counted(self, pair, name):
        backbone, _ = pair(name)
        mask = torch.ones_like(IDS)
        mask[0, :4] = 0
        alone = backbone(IDS[:1, 4:])
        torch.testing.assert_close(backbone(IDS, attention_mask=mask)[:1, 4:], alone, atol=1e-5, rtol=1e-5)
        cache = KVCache.for_backbone(backbone, 2, 9)
        pieces = [
            backbone(IDS[:, start:end], attention_mask=mask[:, :end], cache=cache)
            for start, end in ((0, 6), (6, 7), (7, 9))
        ]
        torch.testing.assert_close(torch.cat(pieces, dim=1)[:1, 4:], alone, atol=1e-5, rtol=1e-5)

    def test_an_encoder_has_none(self, pair):
        backbone, _ = pair("Bert")
        with pytest.raises(InputError, match="`cache` needs a causal model, but this one is bidirectional"):
            backbone(IDS, cache=KVCache.for_backbone(backbone, 2, 9))


class TestRefusals:
    def test_documents(self, pair):
        with pytest.raises(InputError, match=r"`document_ids` cannot be told .* use `data.document_mask=false`"):
            pair("Bert")[0](IDS, document_ids=torch.zeros_like(IDS))

    def test_segments_where_there_are_none(self, pair):
        with pytest.raises(InputError, match="`token_type_ids` must be left out: a `DistilBertModel` does not take it"):
            pair("DistilBert")[0](IDS, token_type_ids=torch.zeros_like(IDS))
        backbone, plain = pair("Bert")
        types = (torch.arange(9) > 4).long().expand_as(IDS)
        expected = plain(input_ids=IDS, token_type_ids=types).last_hidden_state
        assert torch.equal(backbone(IDS, token_type_ids=types), expected)
        assert not torch.equal(backbone(IDS), expected)

    def test_length(self, pair):
        with pytest.raises(InputError, match="`max_length` is 20, but a sequence has 21 tokens"):
            pair("MPNet")[0](torch.full((1, 21), 5))

    def test_both_or_neither_input(self, pair):
        backbone, _ = pair("Bert")
        for inputs in ({}, {"input_ids": IDS, "inputs_embeds": backbone.token_embedding(IDS)}):
            with pytest.raises(InputError, match="`input_ids` or `inputs_embeds` must be given, and not both"):
                backbone(**inputs)

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            (None, "`model.name` is missing"),
            ("nowhere/at-all", "`model.name` must be a folder or a name on the hub with a `config.json`"),
        ],
    )
    def test_names(self, name, sentence):
        with pytest.raises(InputError, match=sentence):
            HuggingFaceBackbone(name)

    def test_weights_that_are_missing(self, tmp_path):
        config_of("Bert").save_pretrained(tmp_path)
        with pytest.raises(InputError, match="has no weights that transformers can load"):
            HuggingFaceBackbone(str(tmp_path))

    def test_two_stacks_are_not_one(self, tmp_path):
        transformers.T5Config(vocab_size=37, d_model=16, num_layers=1, num_heads=2).save_pretrained(tmp_path)
        with pytest.raises(InputError, match="must be one encoder or decoder of tokens, but a t5 model is none"):
            HuggingFaceBackbone(str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "mpt"}, None),
    ],
)
def test_the_longest_sequence(fields, expected):
    assert longest(fields) == expected


def test_the_blocks_are_a_list_for_strategies(pair):
    blocks = pair("GPT2")[0].blocks
    assert isinstance(blocks, nn.ModuleList)
