from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from lmmodules.data import ByteLevelBPE, Corpus, Tokenizer
from lmmodules.data.fim_sentinels import Sentinels
from lmmodules.errors import InputError
from lmmodules.evaluation.generation import generate
from lmmodules.evaluation.infill import infill, infill_batch, infilling_prompt
from lmmodules.evaluation.infilling_session import InfillingSession
from lmmodules.models import Alibi, LanguageModelHead, Learned, Transformer
from lmmodules.objectives import CausalLM
from lmmodules.objectives.fim import FIM

NAMES = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]


class Letters(Corpus):
    def documents(self) -> Iterator[str]:
        yield "abcdef ghijkl mnop\n" * 40

    def fingerprint(self) -> str:
        return "letters"

    def describe(self) -> str:
        return "letters"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return ByteLevelBPE(264, special_tokens=NAMES).train(Letters())  # a token per byte


@pytest.fixture(scope="module")
def sentinels(tokenizer: Tokenizer) -> Sentinels:
    return Sentinels.of(tokenizer)


def make_model(position=None) -> SimpleNamespace:
    torch.manual_seed(0)
    backbone = Transformer(
        vocab_size=264, hidden_size=16, num_layers=2, num_heads=4, causal=True, position=position, initializer_std=0.6
    ).double()
    return SimpleNamespace(backbone=backbone, head=LanguageModelHead(16, 264).double())


@pytest.fixture(params=["rotary", "alibi", "learned"])
def model(request) -> SimpleNamespace:
    return make_model({"rotary": None, "alibi": Alibi(4), "learned": Learned(120, 16)}[request.param])


def test_the_middle_is_what_the_model_writes_behind_the_prompt(
    model, tokenizer: Tokenizer, sentinels: Sentinels
) -> None:
    for order in ("psm", "spm"):
        prompt = sentinels.prompt(tokenizer.encode("abc"), tokenizer.encode("xyz"), order)
        expected = generate(model, [prompt], max_new_tokens=12, greedy=True, stop_ids=[tokenizer.eos_id])[0]
        found = infill(model, tokenizer, "abc", "xyz", order=order, max_new_tokens=12, temperature=0)
        assert found == tokenizer.decode(expected)


def test_a_batch_equals_its_gaps_one_by_one(model, tokenizer: Tokenizer) -> None:
    gaps = [("abc", "xyz"), ("", ""), ("a longer prefix", "f"), ("", "abcdef ghi")]
    together = infill_batch(model, tokenizer, gaps, max_new_tokens=10, temperature=0)
    alone = [infill_batch(model, tokenizer, [gap], max_new_tokens=10, temperature=0)[0] for gap in gaps]
    assert together == alone


def writing(tokens: list[int]) -> SimpleNamespace:
    """A model that writes given tokens, whatever it reads."""
    state = {"step": 0}

    class Script(torch.nn.Module):
        def forward(self, hidden, embedding):
            logits = torch.full((*hidden.shape[:-1], 264), -1e9)
            logits[..., tokens[min(state["step"], len(tokens) - 1)]] = 0.0
            state["step"] += 1
            return logits

        def for_writing(self, embedding, batch_size, steps):
            return lambda hidden: self(hidden, embedding)

    return SimpleNamespace(backbone=make_model().backbone, head=Script())


def test_writing_stops_at_the_end_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("def")
    ended = infill_batch(writing([*ids, tokenizer.eos_id]), tokenizer, [("a", "b")], max_new_tokens=9)[0]
    assert ended == ("def", True)
    cut_off = infill_batch(writing(ids), tokenizer, [("a", "b")], max_new_tokens=3)[0]
    assert cut_off == ("def", False)


def test_tokens_are_streamed(tokenizer: Tokenizer) -> None:
    seen: list[int | None] = []
    ids = tokenizer.encode("def")
    infill(writing([*ids, tokenizer.eos_id]), tokenizer, "a", "b", stream=lambda step: seen.append(step[0]))
    assert seen == [*ids, None]


def test_a_long_prefix_keeps_its_end_and_a_long_suffix_is_refused(tokenizer: Tokenizer, sentinels: Sentinels) -> None:
    prompt = infilling_prompt(tokenizer, sentinels, "abcdefgh", "xyz", order="psm", room=10)
    assert prompt == sentinels.prompt(tokenizer.encode("fgh"), tokenizer.encode("xyz"), "psm")
    with pytest.raises(
        InputError, match="`suffix` must fit into the context, where 6 tokens are left for it, but has 7;"
    ):
        infilling_prompt(tokenizer, sentinels, "", "abcdefg", order="spm", room=10)
    learned = make_model(Learned(30, 16))
    infill(learned, tokenizer, "a" * 60, "b" * 16, max_new_tokens=10)
    with pytest.raises(InputError, match="`suffix` must fit into the context, where 16 tokens are left"):
        infill(learned, tokenizer, "a" * 60, "b" * 17, max_new_tokens=10)
    with pytest.raises(InputError, match="where 6 tokens are left"):
        infill(learned, tokenizer, "a" * 60, "b" * 17, max_new_tokens=10, max_length=20)


def test_who_never_saw_a_sentinel_is_told(tokenizer: Tokenizer) -> None:
    objective = CausalLM(make_model().backbone)
    with pytest.raises(InputError, match="a `CausalLM` never saw the sentinels; train one with `objective=fim`"):
        infill(objective, tokenizer, "a", "b")
    with pytest.raises(InputError, match="never saw"):
        InfillingSession(objective, tokenizer, "b")
    assert isinstance(infill(FIM(make_model().backbone), tokenizer, "a", "b", max_new_tokens=2), str)
    with pytest.raises(InputError, match="use `tokenizer=fim`"):
        infill(FIM(make_model().backbone), ByteLevelBPE(261).train(Letters()), "a", "b")


# Sessions


def test_a_session_writes_what_infill_writes(model, tokenizer: Tokenizer) -> None:
    for order in ("psm", "spm"):
        session = InfillingSession(model, tokenizer, "mnop\nabc", order=order)
        for prefix in ("a", "ab", "abc ", "abd", "abd ghij", "", "abd ghij"):
            found = session.complete(prefix, max_new_tokens=7)
            expected = infill(model, tokenizer, prefix, "mnop\nabc", order=order, max_new_tokens=7, temperature=0)
            assert found.text == expected, (order, prefix)


def test_a_session_goes_on_behind_an_interrupt(model, tokenizer: Tokenizer, monkeypatch) -> None:
    session = InfillingSession(model, tokenizer, "xyz", sentinels=Sentinels.of(tokenizer))
    session.complete("ab", max_new_tokens=3)
    with monkeypatch.context() as patch:
        patch.setattr(type(model.backbone), "prepare", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            session.complete("abcd", max_new_tokens=3)
    for prefix in ("abcd", "abcdef"):
        alone = infill_batch(model, tokenizer, [(prefix, "xyz")], max_new_tokens=3, temperature=0.0)[0]
        assert session.complete(prefix, max_new_tokens=3) == alone


def test_a_session_leaves_the_mode_as_it_was(tokenizer: Tokenizer) -> None:
    model = make_model()
    model.backbone.train()
    InfillingSession(model, tokenizer, "xyz").complete("ab", max_new_tokens=2)
    assert model.backbone.training
    assert model.backbone.blocks[0].training


def test_what_is_no_utf_8_is_told(tokenizer: Tokenizer) -> None:
    for text in ("\ud800", "a" * 5000 + "\ud800"):
        with pytest.raises(InputError, match="a text must be such that UTF-8 can hold it, but '"):
            tokenizer.encode_batch([text])
        with pytest.raises(InputError, match="a text must be such that UTF-8 can hold it, but '"):
            tokenizer.encode(text)


def test_what_is_kept_gives_the_states_of_a_whole_forward(model, tokenizer: Tokenizer, sentinels: Sentinels) -> None:
    session = InfillingSession(model, tokenizer, "mnop", order="spm")
    for prefix in ("abc", "abc d", "abc def ghi"):
        prompt = sentinels.prompt(tokenizer.encode(prefix), tokenizer.encode("mnop"), "spm")
        with torch.inference_mode():
            kept = session._read(prompt, 4)
            whole = model.backbone.eval()(torch.tensor([prompt]))[:, -1]
        assert torch.allclose(kept, whole, atol=1e-10)


def test_only_what_is_new_is_read(tokenizer: Tokenizer) -> None:
    """Prefix 20, suffix 30, five more tokens: with the suffix first 5 are read, with the prefix first 37."""
    model = make_model()
    read = {}
    for order in ("psm", "spm"):
        session = InfillingSession(model, tokenizer, "s" * 30, order=order)
        session.complete("p" * 20, max_new_tokens=1)
        assert session.tokens_read == 54
        session.complete("p" * 25, max_new_tokens=1)
        read[order] = session.tokens_read
    assert read == {"psm": 37, "spm": 5}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be a whole number, at least 1, but is 0"),
        ({"temperature": -1.0}, "`temperature` must be a number, not negative, but is -1.0"),
        ({"top_k": 0}, "`top_k` must be at least 1, but is 0"),
        ({"top_p": 0.0}, "`top_p` must be above 0 and at most 1, but is 0.0"),
    ],
)
def test_wrong_options_of_a_session(options: dict, sentence: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=sentence):
        InfillingSession(make_model(), tokenizer, "s").complete("p", **options)


def test_an_order_that_is_none(tokenizer: Tokenizer) -> None:
    for ask in (
        lambda: infill(make_model(), tokenizer, "p", "s", order="mps"),
        lambda: InfillingSession(make_model(), tokenizer, "s", order="mps"),
    ):
        with pytest.raises(InputError, match="`order` must be one of psm, spm, but is 'mps'; use `order=spm`"):
            ask()


def test_no_room_is_not_the_suffix_s_fault(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="`max_new_tokens` must leave room in the context for the sentinels, 4 tokens"):
        infill(make_model(), tokenizer, "p", "", max_length=20, max_new_tokens=18)
    with pytest.raises(InputError, match="`suffix` must fit into the context, where 1 tokens are left for it"):
        infill(make_model(), tokenizer, "p", "sss", max_length=20, max_new_tokens=15)


def test_an_accepted_completion_is_not_read_again(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("def")
    session = InfillingSession(writing([*ids, tokenizer.eos_id]), tokenizer, "s" * 30)
    middle = session.complete("abc")
    assert middle == ("def", True)
    session.complete("abc" + middle.text, max_new_tokens=1)
    assert session.tokens_read == 1


def test_another_suffix_is_read(tokenizer: Tokenizer) -> None:
    model = make_model()
    session = InfillingSession(model, tokenizer, "xyz")
    session.complete("abc", max_new_tokens=3)
    session.suffix = "mno"
    found = session.complete("abc", max_new_tokens=3).text
    assert found == infill(model, tokenizer, "abc", "mno", max_new_tokens=3, temperature=0)
    assert session.tokens_read == 7  # all behind <PRE> and <SUF>


def test_a_session_draws_by_seed(tokenizer: Tokenizer) -> None:
    session = InfillingSession(make_model(), tokenizer, "xyz")
    drawn = [session.complete("abc", max_new_tokens=9, temperature=3.0, seed=seed).text for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == infill(
        session.model, tokenizer, "abc", "xyz", max_new_tokens=9, temperature=3.0, seed=0, top_p=None
    )


def test_a_session_refuses_a_suffix_longer_than_its_context(tokenizer: Tokenizer) -> None:
    session = InfillingSession(make_model(), tokenizer, "x" * 50, max_length=40)
    with pytest.raises(InputError, match="`suffix` must fit into the context"):
        session.complete("abc", max_new_tokens=4)
