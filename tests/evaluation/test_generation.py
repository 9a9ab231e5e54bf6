from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.evaluation.generation import generate
from lmmodules.models import Alibi, LanguageModelHead, Learned, NoPosition, Transformer

VOCAB_SIZE = 30
PROMPTS = [[4, 8, 15, 16], [23], [4, 2, 4, 2, 4, 2, 9]]


@pytest.fixture(params=["rotary", "alibi", "learned"])
def writer(request):
    return make_writer({"rotary": None, "alibi": Alibi(4), "learned": Learned(40, 16)}[request.param])


def make_writer(position=None, causal=True, **changes):
    torch.manual_seed(0)
    backbone = Transformer(
        vocab_size=VOCAB_SIZE,
        hidden_size=16,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        causal=causal,
        position=position,
        initializer_std=0.6,
        **changes,
    ).double()
    return SimpleNamespace(backbone=backbone, head=LanguageModelHead(16, VOCAB_SIZE))


def next_probabilities(writer, tokens):
    """Of the next token, from a whole forward without a cache."""
    hidden = writer.backbone(torch.tensor([tokens]))
    return writer.head(hidden[0, -1], writer.backbone.token_embedding.weight).softmax(-1).detach()


def test_greedy_equals_the_argmax_of_whole_forwards(writer):
    for prompt, written in zip(PROMPTS, generate(writer, PROMPTS, max_new_tokens=12, greedy=True), strict=True):
        tokens = list(prompt)
        for token in written:
            assert token == next_probabilities(writer, tokens).argmax().item()
            tokens.append(token)
        assert len(written) == 12


def test_a_batch_equals_its_prompts_one_by_one(writer):
    together = generate(writer, PROMPTS, max_new_tokens=15, greedy=True)
    assert together == [generate(writer, [prompt], max_new_tokens=15, greedy=True)[0] for prompt in PROMPTS]
    assert len({tuple(written) for written in together}) == 3


def test_greedy_equals_transformers():
    transformers = pytest.importorskip("transformers")
    from lmmodules.models.hugging_face import from_transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCAB_SIZE, n_embd=16, n_layer=2, n_head=2, n_positions=40, bos_token_id=0, eos_token_id=0
        )
    ).eval()
    for parameter in model.parameters():
        parameter.data *= 5 if parameter.ndim > 1 else 1
    backbone, head = from_transformers(model)
    prompts = torch.randint(1, VOCAB_SIZE, (3, 5))
    theirs = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    ours = generate(SimpleNamespace(backbone=backbone, head=head), prompts, max_new_tokens=20, greedy=True)
    assert ours == theirs[:, 5:].tolist()


def test_draws_follow_the_distribution():
    writer = make_writer()
    draws = 4000
    for options in (
        {},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_p": 0.7},
        {"temperature": 1.5, "top_k": 5, "top_p": 0.8},
    ):
        written = generate(writer, [[4, 8]] * draws, max_new_tokens=1, seed=0, **options)
        seen = torch.bincount(torch.tensor(written).flatten(), minlength=VOCAB_SIZE).double() / draws
        expected = restricted(next_probabilities(writer, [4, 8]), **options)
        assert (seen - expected).abs().max() < 0.03, options
        assert not (seen[expected == 0]).any(), options


def restricted(probabilities, temperature=1.0, top_k=VOCAB_SIZE, top_p=1.0):
    """The distribution that is drawn from, one token after the other."""
    weights = (probabilities.log() / temperature).exp()
    likeliest = weights.argsort(descending=True)[:top_k].tolist()
    total = sum(weights[token].item() for token in likeliest)
    kept, mass = [], 0.0
    for token in likeliest:
        if mass >= top_p:
            break
        kept.append(token)
        mass += weights[token].item() / total
    result = torch.zeros_like(weights)
    result[kept] = weights[kept]
    return result / result.sum()


def test_seeds():
    writer = make_writer()

    def draw(seed):
        return generate(writer, PROMPTS, max_new_tokens=10, temperature=2.0, seed=seed)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    state = torch.get_rng_state()
    draw(1)
    assert torch.equal(torch.get_rng_state(), state), "a seed leaves torch's global generator alone"


def test_zero_temperature_and_top_1_are_greedy():
    writer = make_writer()
    greedy = generate(writer, PROMPTS, max_new_tokens=8, greedy=True)
    assert generate(writer, PROMPTS, max_new_tokens=8, temperature=0.0) == greedy
    assert generate(writer, PROMPTS, max_new_tokens=8, temperature=1e-40) == greedy
    assert generate(writer, PROMPTS, max_new_tokens=8, top_k=1) == greedy
    assert generate(writer, PROMPTS, max_new_tokens=8, top_p=1e-9) == greedy


def test_stop_ids_end_a_continuation_and_are_not_part_of_it():
    writer = make_writer()
    free = generate(writer, PROMPTS, max_new_tokens=12, greedy=True)
    stop = free[0][4]
    stopped = generate(writer, PROMPTS, max_new_tokens=12, greedy=True, stop_ids=[stop])
    for written, whole in zip(stopped, free, strict=True):
        assert written == (whole[: whole.index(stop)] if stop in whole else whole)


def test_nothing_is_computed_after_the_last_continuation_ended():
    writer = make_writer()
    calls = []
    writer.backbone.register_forward_hook(lambda *_: calls.append(1))
    first = generate(writer, [PROMPTS[0]], max_new_tokens=1, greedy=True)[0][0]
    assert len(calls) == 1, "the last token needs no forward of its own"
    assert generate(writer, [PROMPTS[0]], max_new_tokens=50, greedy=True, stop_ids=[first]) == [[]]
    assert len(calls) == 2


def test_streaming():
    writer = make_writer()
    free = generate(writer, PROMPTS, max_new_tokens=6, greedy=True)
    steps = []
    stop = free[1][2]
    written = generate(writer, PROMPTS, max_new_tokens=6, greedy=True, stop_ids=[stop], stream=steps.append)
    for row, tokens in enumerate(written):
        assert [step[row] for step in steps] == tokens + [None] * (len(steps) - len(tokens))


def test_dropout_is_off_while_writing_and_on_again_after():
    writer = make_writer(dropout=0.5)
    assert generate(writer, PROMPTS, max_new_tokens=8, greedy=True) == generate(
        make_writer(), PROMPTS, max_new_tokens=8, greedy=True
    )
    assert writer.backbone.training
    assert writer.head.training


def test_padding_is_made_only_where_lengths_differ(monkeypatch):
    masks = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def spy(*arguments, attn_mask=None, **options):
        masks.append(attn_mask)
        return kernel(*arguments, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    generate(make_writer(), torch.tensor([[1, 2], [3, 4]]), max_new_tokens=3)
    assert masks == [None] * len(masks)
    generate(make_writer(), [[1, 2], [3]], max_new_tokens=3)
    assert masks[-1].shape == (2, 1, 1, 4)


def test_nothing_to_do():
    writer = make_writer()
    assert generate(writer, [], max_new_tokens=3) == []
    assert generate(writer, [[1]], max_new_tokens=0) == [[]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_new_tokens": -1}, "`max_new_tokens` must be a whole number, at least 0, but is -1"),
        ({"max_new_tokens": "many"}, "`max_new_tokens` must be a whole number, at least 0, but is many"),
        ({"temperature": -0.5}, "`temperature` must be a number, not negative, but is -0.5"),
        ({"temperature": "hot"}, "`temperature` must be a number, not negative, but is hot"),
        ({"top_k": "some"}, "`top_k` must be at least 1, but is some"),
        ({"top_p": "most"}, "`top_p` must be above 0 and at most 1, but is most"),
        ({"top_k": 0}, "`top_k` must be at least 1, but is 0; use `top_k=null` for all tokens"),
        ({"top_p": 1.5}, "`top_p` must be above 0 and at most 1, but is 1.5"),
        (
            {"prompts": torch.tensor([1, 2])},
            r"`prompts` must be \(B, T\) when they are a tensor, but have shape",
        ),
        (
            {"prompts": [[1], [2, 30]]},
            r"`prompts` must be tokens of the model's vocabulary \(30\), but prompt 1 ",
        ),
        ({"prompts": [[1], []]}, "`prompts` must have at least one token each, but prompt 1 is empty"),
        (
            {"max_new_tokens": 39},
            r"`max_new_tokens` must leave room .* `max_length` \(40\), but is 39 after 2 tokens; .*=38`",
        ),
    ],
)
def test_wrong_options(options, sentence):
    with pytest.raises(InputError, match=sentence):
        generate(make_writer(Learned(40, 16)), **{"prompts": [[1, 2]], "max_new_tokens": 4, **options})


def test_a_bidirectional_model_cannot_write():
    with pytest.raises(InputError, match="`model` must be causal to write"):
        generate(make_writer(NoPosition(), causal=False), [[1]], max_new_tokens=1)
