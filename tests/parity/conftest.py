"""Random models of transformers, in float64 and with weights large enough that every detail shows."""

from __future__ import annotations

import os

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"

VOCAB_SIZE = 61


def exaggerate(model, seed=0):
    """Scale matrices up and perturb vectors: at the usual initialisation a wrong GELU moves logits by 2e-5 only."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model.double().eval()


@pytest.fixture
def make_model():
    """Build the model of a family by name, with changes to its configuration."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()

    def encoder(config_class, model_class, **changes):
        sizes = {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 40,
        }
        return model_class(config_class(**{**sizes, **changes}))

    def bert(**changes):
        return encoder(transformers.BertConfig, transformers.BertForMaskedLM, **changes)

    def roberta(**changes):
        changes = {"type_vocab_size": 1, "layer_norm_eps": 1e-5, **changes}
        return encoder(transformers.RobertaConfig, transformers.RobertaForMaskedLM, **changes)

    def gpt2(**changes):
        sizes = {"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 40}
        tokens = {"bos_token_id": 0, "eos_token_id": 0}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**sizes, **tokens, **changes}))

    def bloom(**changes):
        sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 48, "n_layer": 3, "n_head": 6}
        model = transformers.BloomForCausalLM(transformers.BloomConfig(**{**sizes, **changes}))
        # Its own code writes the root of 2 / pi with eight digits, which shows in float64.
        for block in model.transformer.h:
            block.mlp.gelu_impl = torch.nn.GELU(approximate="tanh")
        return model

    def llama(**changes):
        sizes = {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        }
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **changes}))

    def electra(**changes):
        changes = {"embedding_size": 24, **changes}
        return encoder(transformers.ElectraConfig, transformers.ElectraForMaskedLM, **changes)

    def esm(**changes):
        # Its dropout skips the embeddings, so that it is taken without one only.
        fixed = {"pad_token_id": 1, "mask_token_id": 60, "layer_norm_eps": 1e-5, "hidden_dropout_prob": 0.0}
        return encoder(transformers.EsmConfig, transformers.EsmForMaskedLM, **{**fixed, **changes})

    def gpt_neox(**changes):
        sizes = {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            "use_parallel_residual": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
        }
        return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**{**sizes, **changes}))

    families = {
        "bert": bert,
        "roberta": roberta,
        "electra": electra,
        "esm": esm,
        "gpt2": gpt2,
        "bloom": bloom,
        "llama": llama,
        "gpt_neox": gpt_neox,
    }

    def make(family, **changes):
        torch.manual_seed(0)
        return exaggerate(families[family](**changes))

    return make


@pytest.fixture(autouse=True)
def float64_throughout(monkeypatch):
    """Leave out the detours through float32 that the models of transformers make whatever their dtype is."""
    pytest.importorskip("transformers")
    from transformers.models.bloom import modeling_bloom
    from transformers.models.esm import modeling_esm
    from transformers.models.llama import modeling_llama

    class Functional:
        def __getattr__(self, name):
            return getattr(torch.nn.functional, name)

        @staticmethod
        def softmax(scores, dim, dtype=None):
            return torch.softmax(scores, dim)

    monkeypatch.setattr(modeling_bloom, "F", Functional())
    monkeypatch.setattr(modeling_esm, "apply_rotary_pos_emb", modeling_llama.apply_rotary_pos_emb)
    monkeypatch.setattr(
        modeling_llama.LlamaRMSNorm,
        "forward",
        lambda self, x: self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon),
    )
