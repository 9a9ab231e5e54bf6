"""A network of ours, opened by transformers: the same numbers, or a sentence why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.models import Alibi, LanguageModelHead, Learned, NoPosition, Rotary, Sinusoidal, Transformer
from lmmodules.models.classification_head import ClassificationHead
from lmmodules.models.hugging_face_export import find_family, save_for_transformers
from lmmodules.models.hugging_face_folder import from_hugging_face, read_model
from lmmodules.models.hugging_face_forms import FORMS
from lmmodules.models.hugging_face_heads import SequenceTask

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

IDS = torch.randint(3, 37, (2, 9), generator=torch.Generator().manual_seed(0))
TOKENS = {"bos": 0, "pad": 1, "eos": 2, "mask": 36}
SIZES = {"vocab_size": 37, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "initializer_std": 0.3}
ENCODER = {"causal": False, "embedding_norm": True, "pre_norm": False}
MASKED = {"transform": True, "bias": True}

# What is expected of a network: its family, its arguments, its positions, its head.
NETWORKS = {
    "bert": ("bert", ENCODER | {"num_token_types": 2}, lambda: Learned(20, 16), MASKED),
    "bert without segments": ("bert", ENCODER, lambda: Learned(20, 16), MASKED),
    "bert with relu": (
        "bert",
        ENCODER | {"activation": "relu"},
        lambda: Learned(20, 16),
        MASKED | {"activation": "relu"},
    ),
    "roberta": ("roberta", ENCODER, lambda: Learned(20, 16, 2), MASKED),
    "roberta with other rows before": ("roberta", ENCODER, lambda: Learned(20, 16, 5), MASKED),
    "relu under a head of gelu": ("roberta", ENCODER | {"activation": "relu"}, lambda: Learned(20, 16), MASKED),
    "electra": ("electra", ENCODER | {"embedding_size": 8}, lambda: Learned(20, 8), MASKED | {"embedding_size": 8}),
    "pre-norm encoder": ("esm", {"causal": False}, lambda: Learned(20, 16), MASKED),
    "pre-norm encoder of RoBERTa": (
        "esm",
        {"causal": False, "embedding_norm": True},
        lambda: Learned(20, 16, 2),
        MASKED,
    ),
    "pre-norm rotary encoder": ("esm", {"causal": False}, lambda: Rotary(), MASKED),
    "gpt2": ("gpt2", {"causal": True, "activation": "gelu_tanh"}, lambda: Learned(20, 16), {}),
    "gpt2, narrow and untied": (
        "gpt2",
        {"causal": True, "intermediate_size": 24},
        lambda: Learned(20, 16, 3),
        {"tied": False},
    ),
    "bloom": (
        "bloom",
        {"causal": True, "activation": "gelu_tanh", "embedding_norm": True},
        lambda: Alibi(2),
        {},
    ),
    "llama": (
        "llama",
        {"causal": True, "norm": "rms_norm", "activation": "swiglu", "bias": False, "num_kv_heads": 1, "head_dim": 6},
        lambda: Rotary(99.0),
        {"tied": False},
    ),
    "llama with biases": (
        "llama",
        {"causal": True, "norm": "rms_norm", "activation": "swiglu", "max_length": 30},
        lambda: Rotary(),
        {},
    ),
    "gpt_neox": ("gpt_neox", {"causal": True}, lambda: Rotary(99.0), {}),
    "gpt_neox, untied": ("gpt_neox", {"causal": True, "norm_eps": 1e-3}, lambda: Rotary(), {"tied": False}),
}


def build(arguments, position, head, seed=0):
    torch.manual_seed(seed)
    backbone = Transformer(**SIZES, **arguments, position=position())
    eps = arguments.get("norm_eps", 1e-5)
    parts = backbone, LanguageModelHead(16, 37, **head, norm_eps=eps, initializer_std=0.3)
    with torch.no_grad():  # vectors are zeros and ones otherwise, and then anything goes
        for parameter in (parameter for part in parts for parameter in part.parameters() if parameter.ndim == 1):
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return parts


def open_with(model_class: str, folder: Path):
    model, info = getattr(transformers, model_class).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_same(name, tmp_path):
    family, *parts = NETWORKS[name]
    backbone, head = build(*parts)
    assert find_family(backbone, head, TOKENS) == family
    opener = save_for_transformers(tmp_path, backbone, head, token_ids=TOKENS, max_length=25)
    auto = "AutoModelForCausalLM" if backbone.causal else "AutoModelForMaskedLM"
    model = open_with(auto, tmp_path)
    assert type(model).__name__ == opener
    expected = head(backbone.eval()(IDS), backbone.token_embedding.weight)
    assert expected.std() > 0.3
    torch.testing.assert_close(model(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-5)

    mask = torch.ones_like(IDS)
    mask[:, 6:] = 0
    ids = torch.where(mask.bool(), IDS, TOKENS["pad"])
    expected = head(backbone(ids, attention_mask=mask), backbone.token_embedding.weight)
    found = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found[:, :6], expected[:, :6], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_and_back_again(name, tmp_path):
    backbone, head = build(*NETWORKS[name][1:])
    save_for_transformers(tmp_path, backbone, head, token_ids=TOKENS)
    returned, returned_head = from_hugging_face(tmp_path)
    expected = head(backbone.eval()(IDS), backbone.token_embedding.weight)
    found = returned_head(returned.eval()(IDS), returned.token_embedding.weight)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_every_family_is_met():
    assert {family for family, *_ in NETWORKS.values()} == set(FORMS)


@pytest.mark.parametrize("name", ["bert", "pre-norm encoder", "gpt2", "llama"])
def test_a_body_without_a_head(name, tmp_path):
    backbone, _ = build(*NETWORKS[name][1:])
    opener = save_for_transformers(tmp_path, backbone, token_ids=TOKENS)
    assert opener.endswith("Model")
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    expected = backbone.eval()(IDS)
    torch.testing.assert_close(model(input_ids=IDS).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def sequence_head(num_outputs):
    torch.manual_seed(1)
    head = ClassificationHead(16, num_outputs, dropout=0.25, initializer_std=0.5)
    with torch.no_grad():
        head.dense.bias.normal_()
        head.output.bias.normal_()
    return head.eval()


@pytest.mark.parametrize("name", ["bert", "bert without segments", "roberta", "pre-norm encoder"])
@pytest.mark.parametrize(
    ("purpose", "classes"), [("classification", ("yes", "no", "perhaps")), ("regression", ("LABEL_0",))]
)
def test_a_head_for_sequences(name, purpose, classes, tmp_path):
    family, *parts = NETWORKS[name]
    backbone, _ = build(*parts)
    head = sequence_head(len(classes))
    task = SequenceTask(head, purpose, classes if purpose == "classification" else ())
    opener = save_for_transformers(tmp_path, backbone, task=task, token_ids=TOKENS)
    assert opener == {"bert": "Bert", "roberta": "Roberta", "esm": "Esm"}[family] + "ForSequenceClassification"
    model = open_with("AutoModelForSequenceClassification", tmp_path)
    assert type(model).__name__ == opener
    expected = head(backbone.eval()(IDS)[:, 0])
    assert expected.std(0).max() > 0.01
    torch.testing.assert_close(model(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-5)
    assert model.config.id2label == dict(enumerate(classes))
    weights = read_model(tmp_path).sequence_heads[purpose]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in head.state_dict().items())


@pytest.mark.parametrize(
    ("name", "opener"), [("bert", "BertForMultipleChoice"), ("roberta", "RobertaForMultipleChoice")]
)
def test_a_head_that_chooses(name, opener, tmp_path):
    backbone, _ = build(*NETWORKS[name][1:])
    head = sequence_head(1)
    assert save_for_transformers(tmp_path, backbone, task=SequenceTask(head, "multiple_choice"), token_ids=TOKENS) == (
        opener
    )
    model = open_with("AutoModelForMultipleChoice", tmp_path)
    choices = torch.stack((IDS, IDS.flip(1), IDS.roll(2, 1)), dim=1)
    expected = head(backbone.eval()(choices.flatten(0, 1))[:, 0]).view(2, 3)
    torch.testing.assert_close(model(input_ids=choices).logits, expected, atol=1e-5, rtol=1e-5)
    assert model.config.classifier_dropout == 0.25


def test_both_heads_of_bert(tmp_path):
    backbone, language_head = build(*NETWORKS["bert"][1:])
    head = sequence_head(2)
    task = SequenceTask(head, "next_sentence")
    assert save_for_transformers(tmp_path, backbone, language_head, task=task, token_ids=TOKENS) == "BertForPreTraining"
    found = open_with("AutoModelForPreTraining", tmp_path)(input_ids=IDS)
    hidden = backbone.eval()(IDS)
    expected = language_head(hidden, backbone.token_embedding.weight)
    torch.testing.assert_close(found.prediction_logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.seq_relationship_logits, head(hidden[:, 0]), atol=1e-5, rtol=1e-5)
    # Either half can be opened alone.
    masked = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(masked(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-5)
    pooled = transformers.AutoModel.from_pretrained(tmp_path).eval()(input_ids=IDS).pooler_output
    torch.testing.assert_close(pooled, torch.tanh(head.dense(hidden[:, 0])), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "purpose", "opener"),
    [
        ("roberta", "next_sentence", "RobertaForMaskedLM"),
        ("electra", "classification", "ElectraModel"),
        ("pre-norm encoder", "multiple_choice", "EsmModel"),
        ("gpt2", "regression", "GPT2Model"),
    ],
)
def test_a_head_that_a_family_has_in_another_form_is_left_out_and_said_to_be(name, purpose, opener, tmp_path, caplog):
    family, *parts = NETWORKS[name]
    backbone, language_head = build(*parts)
    head = language_head if purpose == "next_sentence" else None
    task = SequenceTask(sequence_head(1), purpose)
    assert save_for_transformers(tmp_path, backbone, head, task=task, token_ids=TOKENS) == opener
    (said,) = caplog.messages
    assert said == (
        f"the head for {purpose.replace('_', ' ')} is left out, since no {family} model of transformers has one of its "
        f"form: `{opener}` opens the rest"
    )
    assert "problem_type" not in json.loads((tmp_path / "config.json").read_text())
    assert read_model(tmp_path).sequence_heads == {}


def test_the_configuration(tmp_path):
    backbone, head = build(*NETWORKS["gpt_neox"][1:])
    backbone.dropout.p = 0.25
    save_for_transformers(tmp_path, backbone, head, token_ids=TOKENS, max_length=25)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["pad_token_id"], config["bos_token_id"], config["eos_token_id"]) == (1, 0, 2)
    assert (config["max_position_embeddings"], config["hidden_dropout"]) == (25, 0.25)
    assert config["initializer_range"] == 0.3
    save_for_transformers(tmp_path, backbone.bfloat16(), head.bfloat16())
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["max_position_embeddings"], config["torch_dtype"], config["pad_token_id"]) == (
        2048,
        "bfloat16",
        None,
    )
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "config.json").stat().st_mode


@pytest.mark.parametrize(
    ("arguments", "position", "head", "sentence"),
    [
        (
            {"causal": True},
            Sinusoidal,
            {},
            "gpt2, needs `position` to be Learned (here Sinusoidal)",
        ),
        ({"causal": True}, NoPosition, {}, "`position` to be Learned (here NoPosition)"),
        (
            {"causal": True, "embedding_norm": True},
            lambda: Alibi(2),
            {},
            "bloom, needs `activation` to be gelu_tanh (here gelu)",
        ),
        (
            {"causal": True, "num_kv_heads": 1},
            lambda: Rotary(),
            {},
            "gpt_neox, needs `num_kv_heads` to be num_heads (here 1)",
        ),
        ({"causal": True, "bias": False}, lambda: Rotary(), {}, "gpt_neox, needs `bias` to be True (here False)"),
        ({"causal": True}, lambda: Rotary(), {"bias": True}, "gpt_neox, needs `head.bias` to be False (here True)"),
        (
            {"causal": False},
            lambda: Rotary(99.0),
            MASKED,
            "esm, needs `position.theta` to be None or 10000.0 (here 99.0)",
        ),
        (
            {"causal": False},
            lambda: Alibi(2),
            MASKED,
            "esm, needs `position` to be Learned or Rotary (here Alibi)",
        ),
        (
            ENCODER,
            lambda: Learned(20, 16),
            {**MASKED, "tied": False},
            "bert, needs `head.tied` to be True (here False)",
        ),
        (
            {**ENCODER, "norm_eps": 1e-12},
            lambda: Learned(20, 16),
            {**MASKED, "norm_eps": 1e-5},
            "bert, needs `head.norm_eps` to be that of the network (here 1e-05 and not 1e-12)",
        ),
    ],
)
def test_what_no_family_expresses_is_named(arguments, position, head, sentence, tmp_path):
    backbone, head = Transformer(**SIZES, **arguments, position=position()), LanguageModelHead(16, 37, **head)
    with pytest.raises(InputError) as caught:
        save_for_transformers(tmp_path, backbone, head, token_ids=TOKENS)
    assert str(caught.value).startswith("no family of transformers expresses this network: the nearest, ")
    assert sentence in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_positions_counted_from_padding_need_a_token_of_padding():
    backbone, head = build(*NETWORKS["roberta"][1:])
    assert find_family(backbone, head, {}) == "electra"  # which counts from the first row
    backbone, head = build(*NETWORKS["pre-norm encoder"][1:])
    with pytest.raises(InputError, match=r"esm, needs `pad token` to be there \(here missing\)"):
        find_family(backbone, head, {})
