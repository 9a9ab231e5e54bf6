"""The same numbers as transformers: hidden states and logits to 1e-9, gradients to 1e-8, in float64."""

from __future__ import annotations

import pytest
import torch

from lmmodules.models import KVCache
from lmmodules.models.hugging_face import from_transformers, to_transformers_state_dict

ENCODERS = ["bert", "roberta", "electra", "esm"]
DECODERS = ["gpt2", "bloom", "llama", "gpt_neox"]
FAMILIES = ENCODERS + DECODERS


def tokens(shape=(3, 17), seed=1):
    return torch.randint(3, 61, shape, generator=torch.Generator().manual_seed(seed))


def hidden_and_logits(model, **inputs):
    hidden = model.base_model(**inputs).last_hidden_state
    return hidden, model(**inputs).logits


def ours(backbone, head, input_ids, **inputs):
    hidden = backbone(input_ids, **inputs)
    return hidden, head(hidden, backbone.token_embedding.weight)


def largest(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_and_logits(make_model, family):
    model = make_model(family)
    ids = tokens()
    for a, b in zip(ours(*from_transformers(model), ids), hidden_and_logits(model, input_ids=ids), strict=True):
        assert b.std() > 0.3
        assert largest(a, b) < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients(make_model, family):
    model = make_model(family)
    backbone, head = from_transformers(model)
    ids = tokens()
    pull = torch.randn(3, 17, 61, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) / 50
    (model(input_ids=ids).logits * pull).sum().backward()
    (ours(backbone, head, ids)[1] * pull).sum().backward()

    ours_by_their_names = to_transformers_state_dict(family, *with_gradients_as_weights(backbone, head))
    compared = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is None or (family == "roberta" and "token_type" in name):
            continue  # Our one token type lives in the positions.
        assert largest(ours_by_their_names[name], parameter.grad) < 1e-8, name
        compared += 1
    assert compared >= 3 * 9


def with_gradients_as_weights(backbone, head):
    for module in (backbone, head):
        for parameter in module.parameters():
            parameter.data = parameter.grad
    return backbone, head


@pytest.mark.parametrize("family", FAMILIES)
def test_right_padding(make_model, family):
    model = make_model(family)
    pad = {"roberta": 1, "esm": 1}.get(family, 0)
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, 9:], mask[2, 14:] = 0, 0
    ids = torch.where(mask.bool(), ids, pad)
    theirs = hidden_and_logits(model, input_ids=ids, attention_mask=mask)
    for a, b in zip(ours(*from_transformers(model), ids, attention_mask=mask), theirs, strict=True):
        assert largest(a[mask.bool()], b[mask.bool()]) < 1e-9
        assert a.isfinite().all()


@pytest.mark.parametrize("family", ["roberta", "esm", *DECODERS])
def test_left_padding(make_model, family):
    model = make_model(family)
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, :9], mask[2, :3] = 0, 0
    ids = torch.where(mask.bool(), ids, 1)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if family in ("gpt2", "llama", "gpt_neox"):
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    theirs = hidden_and_logits(model, **inputs)
    for a, b in zip(ours(*from_transformers(model), ids, attention_mask=mask), theirs, strict=True):
        assert largest(a[mask.bool()], b[mask.bool()]) < 1e-9


def test_token_types(make_model):
    model = make_model("bert")
    ids = tokens()
    types = (torch.arange(17) > 8).long().expand_as(ids)
    theirs = model(input_ids=ids, token_type_ids=types).logits
    assert largest(ours(*from_transformers(model), ids, token_type_ids=types)[1], theirs) < 1e-9
    assert largest(ours(*from_transformers(model), ids)[1], theirs) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_are_separate(make_model, family):
    model = make_model(family)
    ids = tokens((2, 17))
    document_ids = torch.tensor([[0] * 5 + [1] * 12, [7] * 9 + [8] * 1 + [7] * 7])
    _, packed = ours(*from_transformers(model), ids, document_ids=document_ids.clone())
    # The last stretch of the second row has the id of the first, which it therefore sees: it is left out here.
    for row, start, end in [(0, 0, 5), (0, 5, 17), (1, 9, 10)]:
        alone = model(input_ids=ids[row : row + 1, start:end]).logits
        assert largest(packed[row, start:end], alone[0]) < 1e-9


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("chunk", [1, 7])
def test_cached_decoding(make_model, family, chunk):
    model = make_model(family)
    backbone, head = from_transformers(model)
    ids = tokens()
    cache = KVCache.for_backbone(backbone, batch_size=3, max_length=17)
    chunks = [ours(backbone, head, part, cache=cache)[1] for part in ids.split(chunk, dim=1)]
    assert cache.length == 17
    assert largest(torch.cat(chunks, dim=1), model(input_ids=ids).logits) < 1e-9


@pytest.mark.parametrize("family", DECODERS)
def test_cached_decoding_with_left_padding(make_model, family):
    model = make_model(family)
    backbone, head = from_transformers(model)
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    _, full = ours(backbone, head, ids, attention_mask=mask)
    cache = KVCache.for_backbone(backbone, batch_size=3, max_length=17)
    ends = [6, 13, *range(14, 18)]
    starts = [0, *ends[:-1]]
    parts = [
        ours(backbone, head, ids[:, start:end], attention_mask=mask[:, :end], cache=cache)[1]
        for start, end in zip(starts, ends, strict=True)
    ]
    assert largest(torch.cat(parts, dim=1)[mask.bool()], full[mask.bool()]) < 1e-9


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt2", {"tie_word_embeddings": False}),
        ("llama", {"tie_word_embeddings": True}),
        ("roberta", {"type_vocab_size": 2}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
        ("llama", {"head_dim": 6, "num_key_value_heads": 4}),
        ("gpt2", {"n_inner": 40, "activation_function": "gelu"}),
        ("bert", {"hidden_act": "relu"}),
        ("bloom", {"n_head": 8}),
        ("electra", {"embedding_size": 32}),
        ("electra", {"hidden_act": "relu", "type_vocab_size": 1}),
        ("gpt_neox", {"tie_word_embeddings": True, "hidden_act": "gelu_new"}),
        ("esm", {"emb_layer_norm_before": True}),
        ("esm", {"position_embedding_type": "rotary"}),
    ],
)
def test_variants_and_the_way_back(make_model, family, changes):
    model = make_model(family, **changes)
    backbone, head = from_transformers(model)
    ids = tokens()
    expected = model(input_ids=ids).logits
    assert largest(ours(backbone, head, ids)[1], expected) < 1e-9

    returned = make_model(family, **changes)
    for parameter in returned.parameters():
        torch.nn.init.zeros_(parameter)
    unused = returned.load_state_dict(to_transformers_state_dict(family, backbone, head), strict=False)
    # ESM's contact head has nothing to do with language, and its angles are no weights.
    assert not unused.unexpected_keys
    assert all("contact_head" in name or "inv_freq" in name for name in unused.missing_keys)
    assert largest(returned(input_ids=ids).logits, expected) < 1e-12


def test_sequence_classes_are_left_out_and_a_bare_body_needs_no_prefix(make_model):
    transformers = pytest.importorskip("transformers")
    gpt2 = make_model("gpt2")
    bare = gpt2.transformer
    backbone, head = from_transformers(bare)
    ids = tokens()
    assert largest(ours(backbone, head, ids)[1], gpt2(input_ids=ids).logits) < 1e-9
    pretraining = transformers.BertForPreTraining(make_model("bert").config).double().eval()
    theirs = pretraining(input_ids=ids).prediction_logits
    assert largest(ours(*from_transformers(pretraining), ids)[1], theirs) < 1e-9


def test_the_body_of_a_discriminator_and_of_a_fine_tuned_model(make_model):
    transformers = pytest.importorskip("transformers")
    ids = tokens()
    for model_class in (transformers.ElectraForPreTraining, transformers.ElectraForSequenceClassification):
        model = model_class(make_model("electra").config).double().eval()
        backbone, _ = from_transformers(model)
        assert largest(backbone(ids), model.electra(input_ids=ids).last_hidden_state) < 1e-9


def test_loading_copies(make_model):
    model = make_model("bert")
    backbone, _ = from_transformers(model)
    before = model.bert.embeddings.word_embeddings.weight.clone()
    with torch.no_grad():
        backbone.token_embedding.weight.zero_()
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, before)


def test_bloom_as_shipped_is_as_close_as_its_constants_allow(make_model):
    pytest.importorskip("transformers")
    from transformers.models.bloom.modeling_bloom import BloomGelu

    model = make_model("bloom")
    for block in model.transformer.h:
        block.mlp.gelu_impl = BloomGelu()
    ids = tokens()
    assert 1e-12 < largest(ours(*from_transformers(model), ids)[1], model(input_ids=ids).logits) < 1e-7


# What must not pass: each of these mistakes is far outside the tolerances above.


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("roberta", {"activation": "gelu_tanh"}),
        ("roberta", {"norm_eps": 1e-12}),
        ("gpt2", {"activation": "gelu"}),
        ("bert", {"norm_eps": 1e-5}),
        ("electra", {"norm_eps": 1e-5}),
        ("esm", {"activation": "gelu_tanh"}),
        ("gpt_neox", {"activation": "gelu_tanh"}),
    ],
)
def test_a_wrong_activation_or_epsilon_fails(make_model, family, change):
    from lmmodules.models import Transformer
    from lmmodules.models.hugging_face import convert_config

    model = make_model(family)
    backbone, head = from_transformers(model)
    wrong = Transformer(**{**convert_config(model.config), **change}).double().eval()
    wrong.load_state_dict(backbone.state_dict())
    ids = tokens()
    assert largest(ours(wrong, head, ids)[1], model(input_ids=ids).logits) > 1e-6


def test_a_missing_padding_mask_fails(make_model):
    model = make_model("roberta")
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, 9:] = 0
    ids = torch.where(mask.bool(), ids, 1)
    theirs = model(input_ids=ids, attention_mask=mask).logits
    assert largest(ours(*from_transformers(model), ids)[1][mask.bool()], theirs[mask.bool()]) > 1e-3


def test_a_wrong_position_offset_fails(make_model):
    model = make_model("roberta")
    backbone, head = from_transformers(model)
    backbone.position.offset = 0
    ids = tokens()
    assert largest(ours(backbone, head, ids)[1], model(input_ids=ids).logits) > 1e-2


def test_a_wrong_base_of_the_wavelengths_fails(make_model):
    model = make_model("gpt_neox")
    backbone, head = from_transformers(model)
    backbone.position = type(backbone.position)(theta=501.0)
    ids = tokens()
    assert largest(ours(backbone, head, ids)[1], model(input_ids=ids).logits) > 1e-6


def test_embeddings_that_skip_their_projection_fail(make_model):
    model = make_model("electra", embedding_size=24)
    backbone, head = from_transformers(model)
    ids = tokens()
    torch.nn.init.eye_(backbone.embedding_projection.weight)
    assert largest(ours(backbone, head, ids)[1], model(input_ids=ids).logits) > 1e-2


def test_fused_projections_in_the_wrong_order_fail(make_model):
    model = make_model("gpt2")
    backbone, head = from_transformers(model)
    for block, theirs in zip(backbone.blocks, model.transformer.h, strict=True):
        block.attention.query_key_value.weight.data = theirs.attn.c_attn.weight.T.contiguous()
    ids = tokens()
    assert largest(ours(backbone, head, ids)[1], model(input_ids=ids).logits) > 1e-2
