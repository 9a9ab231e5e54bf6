"""Whatever form the bias takes on its way to the kernel, attention is that of its definition."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmmodules.models import Alibi, KVCache, Transformer, alibi_attention, alibi_slopes
from lmmodules.models.alibi_attention import FoldedBias, WholeSequence
from lmmodules.models.visibility import Visibility

CPU = torch.device("cpu")
FORMS = ["row", "clipped", "folded"]
ALLOWED = alibi_attention._allowed_kernels()


def tensors(heads, length, head_dim, dtype=torch.float32, kv_heads=None, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, heads, length, head_dim)] + 2 * [(batch, kv_heads or heads, length, head_dim)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def by_definition(query, key, value, slopes, seen=None, causal=True):
    """Scores, minus slope times distance, softmax, sum: in float64, nothing shared with the code under test."""
    query, key, value = query.double(), key.double(), value.double()
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    new, keys = query.shape[2], key.shape[2]
    distances = torch.arange(keys - new, keys)[:, None] - torch.arange(keys)
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
    scores = scores - torch.tensor(slopes, dtype=torch.float64)[:, None, None] * distances.abs()
    hidden = (distances < 0) & causal
    if seen is not None:
        hidden = hidden | ~seen
    return scores.masked_fill(hidden, -math.inf).softmax(-1) @ value


def visibility(heads, length, dtype=torch.float32, mask=None, documents=None, causal=True, keys=None):
    bias = Alibi(heads).bias(length, keys or length, causal=causal, device=CPU, dtype=dtype)
    return bias.visibility(mask, documents)


@pytest.fixture
def take(monkeypatch):
    """Let the dispatch find a platform on which a certain form is the best."""

    def find(form):
        monkeypatch.setattr(alibi_attention, "denormals_are_flushed", lambda: form != "clipped")
        monkeypatch.setattr(alibi_attention, "kernel_takes_bias_with_flag", lambda *_: form != "folded")

    return find


@pytest.fixture
def kernel_calls(monkeypatch):
    calls = []
    kernel = F.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, **options):
        calls.append({"mask": attn_mask, "head_dim": query.shape[-1], "dtype": query.dtype, **options})
        return kernel(query, key, value, attn_mask, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return calls


# Which form


def test_a_causal_sequence_is_a_row_and_a_flag(kernel_calls, take):
    take("row")
    visibility(3, 200).attend(*tensors(3, 200, 8))
    (call,) = kernel_calls
    assert call["mask"].shape == (1, 3, 1, 200)
    assert (call["is_causal"], call["head_dim"]) == (True, 8)


def test_padding_is_in_the_row(kernel_calls, take):
    take("row")
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, 6:] = 0
    visibility(3, 9, mask=mask).attend(*tensors(3, 9, 8))
    assert kernel_calls[0]["mask"].shape == (2, 3, 1, 9)
    assert kernel_calls[0]["is_causal"]


def test_training_with_denormals_is_clipped(kernel_calls, take):
    take("clipped")
    query, key, value = tensors(4, 300, 8)
    visibility(4, 300).attend(query, key, value)
    visibility(4, 300).attend(query.requires_grad_(), key, value)
    visibility(4, 200).attend(query[:, :, :200], key[:, :, :200], value[:, :, :200])
    masks = [call["mask"] for call in kernel_calls]
    assert [mask.shape for mask in masks] == [(1, 4, 1, 300), (1, 4, 300, 300), (1, 4, 1, 200)]
    assert masks[1].isinf().sum() > 150 * 300 * 4, "the future, and what is too far away"
    assert masks[1][0, 0, -1].isinf().sum() == 300 - 241, "slope 1/4 reaches sixty nats at a distance of 240"


def test_clipping_is_for_float32_and_for_matrices_of_moderate_size(kernel_calls, take, monkeypatch):
    take("clipped")
    for dtype in (torch.float64, torch.bfloat16):
        query, key, value = tensors(4, 300, 8, dtype)
        visibility(4, 300, dtype).attend(query.requires_grad_(), key, value)
    monkeypatch.setattr(alibi_attention, "CLIPPED_ELEMENTS", 4 * 300 * 300 - 1)
    query, key, value = tensors(4, 300, 8)
    visibility(4, 300).attend(query.requires_grad_(), key, value)
    assert [call["mask"].shape for call in kernel_calls] == [(1, 4, 1, 300)] * 3


def test_a_kernel_that_refuses_gets_the_bias_folded(kernel_calls, take):
    take("folded")
    visibility(3, 9).attend(*tensors(3, 9, 8))
    (call,) = kernel_calls
    assert (call["mask"], call["is_causal"], call["head_dim"]) == (None, True, 16)
    assert call["scale"] == 1 / math.sqrt(8)


def test_dropout_is_folded(kernel_calls, take):
    take("row")
    torch.manual_seed(0)
    query, key, value = tensors(3, 9, 8)
    visibility(3, 9).attend(query, key, value, dropout=0.5)
    (call,) = kernel_calls
    assert (call["mask"], call["is_causal"], call["dropout_p"]) == (None, True, 0.5)


def test_dropout_drops_without_bias():
    torch.manual_seed(0)
    query, key, value = tensors(2, 6, 4, batch=4000)
    query, key, value = (part[:1].expand(4000, -1, -1, -1) for part in (query, key, value))
    mean = visibility(2, 6).attend(query, key, value, dropout=0.2).mean(0)
    expected = by_definition(query[:1], key[:1], value[:1], alibi_slopes(2))[0].float()
    torch.testing.assert_close(mean, expected, atol=0.06, rtol=0)


def test_the_probe_finds_what_this_kernel_does(monkeypatch):
    kernel = F.scaled_dot_product_attention
    probe = alibi_attention._try_kernel.__wrapped__

    def refusing(*arguments, attn_mask=None, is_causal=False, **options):
        if is_causal and attn_mask is not None:
            raise RuntimeError("Explicit attn_mask should not be set when is_causal=True")
        return kernel(*arguments, attn_mask=attn_mask, is_causal=is_causal, **options)

    def without_flag(*arguments, is_causal=False, **options):
        return kernel(*arguments, **options)

    def without_mask(*arguments, attn_mask=None, **options):
        return kernel(*arguments, **options)

    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for kv_heads in (4, 2):
            right = probe("cpu", dtype, kv_heads, ALLOWED)
            query, key, value = tensors(4, 30, 8, dtype, kv_heads=kv_heads)
            row = alibi_attention.LinearBiases(alibi_slopes(4)).row(30, CPU, torch.promote_types(dtype, torch.float32))
            try:
                found = kernel(query, key, value, attn_mask=row, is_causal=True, enable_gqa=kv_heads == 2).double()
                error = (found - by_definition(query, key, value, alibi_slopes(4))).abs().max()
            except RuntimeError:
                error = math.inf
            assert right == (error < 0.05)
            for wrong in (refusing, without_flag, without_mask):
                with monkeypatch.context() as patch:
                    patch.setattr(F, "scaled_dot_product_attention", wrong)
                    assert not probe("cpu", dtype, kv_heads, ALLOWED)
    assert not probe("meta", torch.float32, 4, ALLOWED)


def test_the_dispatch_follows_the_kernels_that_are_allowed():
    decoder, ids = network(heads=4, num_kv_heads=2), tokens(2, 40)
    expected = decoder(ids)
    with sdpa_kernel(SDPBackend.MATH):  # which refuses a bias beside the flag
        torch.testing.assert_close(decoder(ids), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(decoder(ids), expected, atol=0, rtol=0)


def test_a_score_that_outweighs_its_distance_is_not_clipped_away(take):
    take("clipped")
    query, key, value = tensors(8, 300, 8)
    query[..., 0], key[:, :, 0, 0] = 10.0, 10.0 * math.sqrt(8)  # every query looks at the first key: a score of 100
    expected = by_definition(query, key, value, alibi_slopes(8))
    query.requires_grad_()
    found = visibility(8, 300).attend(query, key, value)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)


def test_copies_and_files_hold_no_tables():
    decoder = network(False, num_layers=1)
    size = len(pickle.dumps(decoder))
    expected = decoder(tokens(1, 300))
    assert len(pickle.dumps(decoder)) == size
    torch.testing.assert_close(pickle.loads(pickle.dumps(decoder))(tokens(1, 300)), expected, atol=0, rtol=0)


def test_float64_stays_under_autocast():
    decoder, ids = network(), tokens(1, 20)
    expected = decoder(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(decoder(ids), expected, atol=1e-12, rtol=0)


def test_the_probe_leaves_the_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with torch.inference_mode():
        alibi_attention._try_kernel.__wrapped__("cpu", torch.float32, 4, ALLOWED)
    assert torch.equal(torch.rand(3), expected)


def test_the_meta_device_is_served():
    query = torch.zeros(2, 4, 5, 8, device="meta")
    forms = Alibi(4).bias(5, 5, causal=True, device=query.device, dtype=query.dtype)
    assert forms.visibility(None, None).attend(query, query, query).shape == query.shape


# The numbers


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("heads", [1, 3, 8, 12])
@pytest.mark.parametrize("length", [1, 2, 127, 512])
def test_outputs_and_gradients(take, form, heads, length):
    take(form)
    parts = tensors(heads, length, 16, batch=1)
    ours = [part.clone().requires_grad_() for part in parts]
    exact = [part.double().requires_grad_() for part in parts]
    found = visibility(heads, length).attend(*ours)
    expected = by_definition(*exact, alibi_slopes(heads))
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)
    pull = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((found.double() * pull).sum(), ours)
    for gradient, wanted in zip(gradients, torch.autograd.grad((expected * pull).sum(), exact), strict=True):
        torch.testing.assert_close(gradient.double(), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_float64_has_no_error_to_speak_of(take, form):
    take(form)
    parts = tensors(6, 400, 16, torch.float64)
    expected = by_definition(*parts, alibi_slopes(6))
    assert (visibility(6, 400, torch.float64).attend(*parts) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_grouped_heads_have_slopes_of_their_own(take, form):
    take(form)
    parts = tensors(6, 50, 16, kv_heads=2)
    found = visibility(6, 50).attend(*parts)
    torch.testing.assert_close(found.double(), by_definition(*parts, alibi_slopes(6)), atol=1e-5, rtol=0)


def test_the_bias_is_not_scaled():
    query, key, value = tensors(2, 9, 4)
    padded = [F.pad(query * math.sqrt(2), (0, 4)), F.pad(key, (0, 4)), F.pad(value, (0, 4))]
    expected = visibility(2, 9).attend(query, key, value)
    torch.testing.assert_close(visibility(2, 9).attend(*padded)[..., :4], expected)


def relative_error(found, parts, heads):
    expected = by_definition(*parts, alibi_slopes(heads))
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_as_good_as_bfloat16_gets(take, form, autocast):
    take(form)
    parts = tensors(8, 1024, 64, torch.bfloat16, batch=1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = visibility(8, 1024, torch.bfloat16).attend(*parts)
        assert found.dtype == torch.bfloat16
    assert relative_error(found, parts, 8) < 3e-3


@pytest.mark.parametrize("autocast", [False, True])
def test_the_obvious_form_is_wrong_in_bfloat16(autocast):
    """Key positions times the slope, as BLOOM and fairseq have it: why there is a dispatch at all."""
    parts = tensors(8, 1024, 64, torch.bfloat16, batch=1)
    row = torch.tensor(alibi_slopes(8))[None, :, None, None] * torch.arange(1024)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mask = row if autocast else row.bfloat16()
        found = F.scaled_dot_product_attention(*parts, attn_mask=mask, is_causal=True)
    assert relative_error(found, parts, 8) > 0.1


def test_float16_is_as_good_as_float16_gets():
    parts = tensors(16, 512, 64, torch.float16, batch=1)
    assert relative_error(visibility(16, 512, torch.float16).attend(*parts), parts, 16) < 1e-3


# In a network


def network(causal=True, heads=6, **changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 24, "num_layers": 2, "num_heads": heads, "initializer_std": 0.3}
    return Transformer(causal=causal, position=Alibi(heads), **{**sizes, **changes}).double()


def tokens(*shape):
    return torch.randint(0, 20, shape, generator=torch.Generator().manual_seed(0))


CASES = {
    "none": (None, None),
    "left": (torch.tensor([[0] * 3 + [1] * 8, [1] * 11]), None),
    "right": (torch.tensor([[1] * 11, [1] * 6 + [0] * 5]), None),
    "amid": (torch.tensor([[1] * 11, [1] * 4 + [0] * 3 + [1] * 4]), None),
    "nothing": (torch.tensor([[0] * 11, [1] * 11]), None),
    "documents": (None, torch.tensor([[0] * 5 + [1] * 6, [3] * 2 + [4] * 8 + [5]])),
    "recurring": (None, torch.tensor([[7] * 5 + [1] * 2 + [7] * 4, [0] * 11])),
    "both": (
        torch.tensor([[1] * 9 + [0] * 2, [0] * 2 + [1] * 9]),
        torch.tensor([[0] * 5 + [1] * 6, [0] * 4 + [2] * 7]),
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("causal", [True, False])
def test_masks(take, form, case, causal):
    take(form)
    mask, documents = CASES[case]
    parts = tensors(6, 11, 4, torch.float64)
    ours = [part.clone().requires_grad_() for part in parts]
    found = visibility(6, 11, torch.float64, mask, documents, causal).attend(*ours)
    seen = torch.ones(2, 1, 11, 11, dtype=torch.bool)
    if mask is not None:
        seen = seen & mask.bool()[:, None, None]
    if documents is not None:
        seen = seen & (documents[:, :, None] == documents[:, None])[:, None]
    expected = by_definition(*parts, alibi_slopes(6), seen, causal)
    real = torch.ones(2, 11, dtype=torch.bool) if mask is None else mask.bool()
    real = real[:, None].expand(2, 6, 11)
    torch.testing.assert_close(found[real], expected[real], atol=1e-12, rtol=0)
    assert found.isfinite().all()
    gradients = torch.autograd.grad(found.square().sum(), ours)
    assert all(gradient.isfinite().all() for gradient in gradients)
    if mask is not None:
        for gradient in torch.autograd.grad(
            visibility(6, 11, torch.float64, mask, documents, causal).attend(*ours)[real].sum(), ours[1:]
        ):
            assert not gradient[~real].any(), "padding is not looked at"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("padded", [False, True])
def test_cached_decoding(take, form, chunk, padded):
    take(form)
    decoder, ids = network(num_kv_heads=2), tokens(2, 19)
    mask = torch.ones_like(ids)
    mask[0, : 4 if padded else 0] = 0
    whole = decoder(ids, attention_mask=mask if padded else None)
    cache = KVCache.for_backbone(decoder, 2, 19)
    parts = [
        decoder(part, cache=cache, attention_mask=mask[:, : cache.length + part.shape[1]] if padded else None)
        for part in ids.split(chunk, 1)
    ]
    torch.testing.assert_close(torch.cat(parts, 1)[mask.bool()], whole[mask.bool()], atol=1e-10, rtol=0)


def test_cached_decoding_under_autocast():
    decoder, ids = network(heads=8, hidden_size=64, initializer_std=0.1).float(), tokens(1, 600)
    exact = decoder(ids)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        cache = KVCache.for_backbone(decoder, 1, 600)
        parts = [decoder(part, cache=cache) for part in (ids[:, :500], ids[:, 500:599], ids[:, 599:])]
        whole = decoder(ids)
    # Both are rounded; half of the weights would be wrong if the bias were.
    assert (torch.cat(parts, 1) - exact).norm() < 0.03 * exact.norm()
    assert (whole - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_module_moved_to_bfloat16_keeps_its_bias(dtype):
    decoder, ids = network(heads=8, hidden_size=64, initializer_std=0.1).float(), tokens(1, 600)
    exact = decoder(ids)
    assert (decoder.to(dtype)(ids).float() - exact).norm() < 0.04 * exact.norm()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", ["none", "padding", "documents"])
@pytest.mark.parametrize("causal", [True, False])
def test_there_is_never_a_matrix_per_row_and_head(take, form, case, causal, largest_tensor):
    take(form)
    batch, heads, length = 5, 6, 160
    model = network(causal, num_layers=1).float()
    ids = tokens(batch, length)
    inputs = {}
    if case == "padding":
        inputs["attention_mask"] = (torch.arange(length) < 150).long().expand(batch, -1).contiguous()
    if case == "documents":
        inputs["document_ids"] = (torch.arange(length) > 30).long().expand(batch, -1).contiguous()
    with largest_tensor() as made:
        model(ids, **inputs).square().sum().backward()
    assert made.elements < batch * heads * length * length
    if causal and case != "documents" and form == "row":
        assert made.elements < heads * length * length, "and here not even one per head"
    with largest_tensor() as made:
        scores = torch.zeros(batch, heads, length, length)
        scores.softmax(-1)
    assert made.elements == batch * heads * length * length, "it would be seen"


@pytest.mark.slow
def test_it_compiles_and_gives_the_same(take):
    model, ids = network().float(), tokens(2, 80)
    expected = model(ids)
    expected.square().sum().backward()
    gradient = model.token_embedding.weight.grad.clone()
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True)
    found = compiled(ids)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.token_embedding.weight.grad, gradient, atol=1e-3, rtol=1e-3)


def test_the_classes_are_visibilities():
    assert isinstance(visibility(2, 5), WholeSequence)
    assert isinstance(visibility(2, 5, documents=torch.zeros(1, 5, dtype=torch.long)), FoldedBias)
    assert isinstance(visibility(2, 3, keys=5), FoldedBias)
    assert type(visibility(2, 1, keys=5)) is Visibility
