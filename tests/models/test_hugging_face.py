"""What is refused, and in which words; the numbers are compared in tests/parity."""

from __future__ import annotations

import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.models import LanguageModelHead, Transformer
from lmmodules.models.hugging_face import (
    convert_config,
    convert_state_dict,
    from_transformers,
    to_transformers_state_dict,
)

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("config", "changes", "sentence"),
    [
        ("Bert", {"is_decoder": True}, "`is_decoder` must be False in a bert configuration, but is True"),
        ("Bert", {"hidden_act": "silu"}, "`hidden_act` must be one of gelu, gelu_new, .*, but is 'silu'"),
        ("Bert", {"tie_word_embeddings": False}, "`tie_word_embeddings` must be True in a bert configuration"),
        ("GPT2", {"scale_attn_by_inverse_layer_idx": True}, "`scale_attn_by_inverse_layer_idx` must be False"),
        ("GPT2", {"embd_pdrop": 0.2}, "`embd_pdrop` must be 0.1 in a gpt2 configuration, but is 0.2"),
        ("Bloom", {"apply_residual_connection_post_layernorm": True}, "`apply_residual_connection_post_layernorm`"),
        ("Bloom", {"hidden_dropout": 0.1}, "`hidden_dropout` must be 0.0 in a bloom configuration, but is 0.1"),
        ("Llama", {"hidden_act": "gelu"}, "`hidden_act` must be 'silu' in a llama configuration, but is 'gelu'"),
        ("Llama", {"mlp_bias": True}, "`mlp_bias` must be False in a llama configuration, but is True"),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
            "`rope_parameters` must be of type 'default', because scaled rotary is not supported, but is 'linear'",
        ),
        ("GPTNeoX", {}, "`use_parallel_residual` must be False in a gpt_neox configuration, but is True"),
        (
            "GPTNeoX",
            {"use_parallel_residual": False},
            "`rotary_pct` must be 1.0 in a gpt_neox configuration, but is 0.25",
        ),
        ("Esm", {"token_dropout": True, "pad_token_id": 1}, "`token_dropout` must be False in a esm configuration"),
        ("Esm", {"hidden_dropout_prob": 0.1, "pad_token_id": 1}, "`hidden_dropout_prob` must be 0.0 in a esm"),
        (
            "OPT",
            {},
            "`model_type` must be one of bert, roberta, electra, gpt2, bloom, llama, gpt_neox, esm, but is 'opt'",
        ),
    ],
)
def test_unsupported_configurations(config, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        convert_config(getattr(transformers, f"{config}Config")(**changes))


def test_the_base_of_rotary_is_found_where_older_versions_keep_it():
    class Older:
        model_type = "llama"
        rope_theta = 12345.0
        rope_scaling = None

        def __getattr__(self, name):
            if name.startswith("rope"):
                raise AttributeError(name)
            return getattr(transformers.LlamaConfig(), name)

    assert convert_config(Older())["position"].theta == 12345.0
    Older.rope_scaling = {"type": "dynamic", "factor": 2.0}
    with pytest.raises(InputError, match="`rope_scaling` must be of type 'default'"):
        convert_config(Older())


def test_released_roberta_counts_from_its_padding():
    config = transformers.RobertaConfig(max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    arguments = convert_config(config)
    assert (arguments["max_length"], arguments["position"].offset, arguments["num_token_types"]) == (512, 2, 0)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=11, n_embd=8, n_layer=1, n_head=2, n_positions=6, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def test_weights_missing_or_left_over():
    model = gpt2()
    backbone, head = from_transformers(model)
    missing = {name: tensor for name, tensor in model.state_dict().items() if "ln_2.bias" not in name}
    with pytest.raises(InputError, match=r"`transformer.h.0.ln_2.bias` must be among the weights of a gpt2 model"):
        convert_state_dict("gpt2", missing, backbone, head)
    surplus = {**model.state_dict(), "transformer.h.0.attn.gate": torch.zeros(2)}
    with pytest.raises(InputError, match=r"`transformer.h.0.attn.gate` has no place in a gpt2 model of ours \(1 such"):
        convert_state_dict("gpt2", surplus, backbone, head)
    buffers = {**model.state_dict(), "transformer.h.0.attn.bias": torch.zeros(2), "transformer.h.0.attn.masked_bias": 0}
    convert_state_dict("gpt2", buffers, backbone, head)


def bert(kind="BertForMaskedLM"):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return getattr(transformers, kind)(transformers.BertConfig(vocab_size=11, **sizes))


def test_a_model_without_a_head_gets_a_new_one(caplog):
    model = bert("BertModel")
    backbone, head = from_transformers(model)
    assert caplog.messages == ["no language-model head in BertModel: a new one is made"]
    assert torch.equal(backbone.token_embedding.weight, model.embeddings.word_embeddings.weight)
    assert head.dense.weight.shape == (8, 8)
    assert not head.bias.any()
    assert head.norm.eps == 1e-12


def test_half_a_head_is_an_error():
    model = bert()
    backbone, head = from_transformers(model)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "cls.predictions.bias"}
    del weights["cls.predictions.decoder.bias"]
    with pytest.raises(InputError, match=r"`cls.predictions.bias` must be among the weights of a bert model"):
        convert_state_dict("bert", weights, backbone, head)


def test_of_tied_weights_either_will_do():
    model = bert()
    backbone, head = from_transformers(model)
    weights = model.state_dict()
    weights["cls.predictions.decoder.bias"] = torch.arange(11.0)
    del weights["cls.predictions.bias"], weights["bert.embeddings.word_embeddings.weight"]
    of_backbone, of_head = convert_state_dict("bert", weights, backbone, head)
    assert torch.equal(of_head["bias"], torch.arange(11.0))
    assert torch.equal(of_backbone["token_embedding.weight"], model.bert.embeddings.word_embeddings.weight)


def test_names_of_older_files():
    model = bert()
    backbone, head = from_transformers(model)
    expected = backbone.state_dict()
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in model.state_dict().items()
    }
    assert any("gamma" in name for name in older)
    of_backbone, _ = convert_state_dict("bert", older, backbone, head)
    assert all(torch.equal(of_backbone[name], expected[name]) for name in expected)
    neox = transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=11,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            use_parallel_residual=False,
            rope_parameters={"rope_type": "default", "rope_theta": 10.0, "partial_rotary_factor": 1.0},
        )
    )
    backbone, head = from_transformers(neox)
    older = {name.replace("lm_head", "embed_out"): tensor for name, tensor in neox.state_dict().items()}
    assert torch.equal(convert_state_dict("gpt_neox", older, backbone, head)[1]["weight"], neox.lm_head.weight)


def test_what_a_family_cannot_hold_is_not_exported():
    sizes = {"vocab_size": 11, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "causal": True}
    head = LanguageModelHead(8, 11)
    with pytest.raises(InputError, match=r"`blocks.0.mlp.gate.weight` has no counterpart in a gpt2 model"):
        to_transformers_state_dict("gpt2", Transformer(**sizes, activation="swiglu"), head)
    with pytest.raises(InputError, match=r"`model_type` must be one of bert, roberta, electra, .*, but is 'opt'"):
        to_transformers_state_dict("opt", Transformer(**sizes), head)


def test_the_mode_of_the_model_is_kept():
    for training in (True, False):
        backbone, head = from_transformers(gpt2().train(training))
        assert backbone.training is head.training is training
