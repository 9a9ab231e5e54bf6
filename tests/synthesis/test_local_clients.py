"""Checkpoints and published models as clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lmmodules
from lmmodules.checkpoint import load, load_tokenizer
from lmmodules.errors import InputError
from lmmodules.evaluation import generate
from lmmodules.synthesis import CheckpointClient, Decoding, EncoderEmbedder, HuggingFaceClient

PROMPTS = ["the cat sees", "my aunt"]


@pytest.fixture(scope="module")
def trained(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The directory of a short run, trained when it is first asked for."""
    runs: dict[tuple[str, ...], Path] = {}

    def train(*overrides: str) -> Path:
        if overrides not in runs:
            runs[overrides] = tmp_path_factory.mktemp("run")
            shape = [*tiny, "max_steps=8", "optimizer.lr=1e-2", *overrides, "callbacks.progress=null"]
            lmmodules.compose(*shape, directory=str(runs[overrides])).fit()
        return runs[overrides]

    return train


class TestCheckpoint:
    def test_it_writes_what_generation_writes(self, trained: Callable[..., Path]) -> None:
        client = CheckpointClient(trained(), batch_size=2)
        objective, tokenizer = load(trained()), load_tokenizer(trained())
        for temperature in (0.0, 1.0):
            written = generate(
                objective,
                [tokenizer.encode(prompt) for prompt in PROMPTS],
                max_new_tokens=12,
                temperature=temperature,
                stop_ids=[tokenizer.eos_id],
                seed=3,
            )
            completions = client.complete(PROMPTS, Decoding(12, temperature, seed=3))
            assert completions == [tokenizer.decode(ids) for ids in written]

    def test_it_stops(self, trained: Callable[..., Path]) -> None:
        client = CheckpointClient(trained())
        [whole] = client.complete(PROMPTS[:1], Decoding(20))
        assert len(whole) > 6
        stop = whole[4:6]
        assert client.complete(PROMPTS[:1], Decoding(20, stop=(stop,))) == [whole[: whole.index(stop)]]
        # One that has met its stop does not end the others of its batch.
        [alone] = client.complete(PROMPTS[1:], Decoding(20, stop=(stop,)))
        assert client.complete(PROMPTS, Decoding(20, stop=(stop,)))[1] == alone

    def test_writing_ends_early(self, trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
        client = CheckpointClient(trained())
        [whole] = client.complete(PROMPTS[:1], Decoding(60))
        steps = []
        head = client.model.head
        monkeypatch.setattr(head, "forward", lambda *a, _f=head.forward, **k: steps.append(1) or _f(*a, **k))
        client.complete(PROMPTS[:1], Decoding(60, stop=(whole[1],)))
        assert len(steps) < 10

    def test_its_name_is_of_its_weights(self, trained: Callable[..., Path]) -> None:
        assert CheckpointClient(trained()).name == CheckpointClient(trained() / "checkpoints" / "last.ckpt").name
        assert CheckpointClient(trained()).name != CheckpointClient(trained("seed=1")).name

    def test_room(self, trained: Callable[..., Path]) -> None:
        client = CheckpointClient(trained("position=learned", "model.max_length=32"))
        assert client.fits("the cat", Decoding(20))
        assert not client.fits("the cat", Decoding(31))
        assert CheckpointClient(trained()).fits("the cat " * 999, Decoding(20))

    def test_it_must_be_causal(self, trained: Callable[..., Path]) -> None:
        masked = trained("objective=masked_lm", "model=encoder_tiny")
        with pytest.raises(InputError, match="`checkpoint` must hold a causal model to write programs"):
            CheckpointClient(masked)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Callable[..., Path]:
    """Writes a small model of transformers with a tokenizer into a folder."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")

    def write(kind: str, chat_template: str | None = None) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        backend = tokenizers.ByteLevelBPETokenizer()
        files = [str(file) for file in texts.iterdir()]
        backend.train(files, vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False)
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend._tokenizer, bos_token="<s>", eos_token="</s>", chat_template=chat_template
        )
        tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        size = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        if kind == "gpt2":
            config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **size)
            model = transformers.GPT2LMHeadModel(config)
        elif kind == "bert":
            config = transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, **size)
            model = transformers.BertForMaskedLM(config)
        else:
            config = transformers.OPTConfig(
                hidden_size=32, word_embed_proj_dim=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64,
                max_position_embeddings=64, **size,
            )  # fmt: skip
            model = transformers.OPTForCausalLM(config)
        for parameter in model.parameters():  # so that the likeliest tokens are not all the same
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
        return folder

    return write


class TestHuggingFace:
    @pytest.mark.parametrize("kind", ["gpt2", "opt"])  # through our own door, and as transformers runs it
    def test_it_writes_what_transformers_writes(self, kind: str, published: Callable[..., Path]) -> None:
        import transformers

        folder = published(kind)
        client = HuggingFaceClient(folder, batch_size=2)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        completions = client.complete(PROMPTS, Decoding(10))
        for prompt, completion in zip(PROMPTS, completions, strict=True):
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            written = model.generate(ids, max_new_tokens=10, do_sample=False, attention_mask=torch.ones_like(ids))
            assert completion == tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
        stop = completions[0][3:5]
        cut = [text[: text.index(stop)] if stop in text else text for text in completions]
        assert client.complete(PROMPTS, Decoding(10, stop=(stop,))) == cut
        drawn = client.complete(PROMPTS[:1], Decoding(10, temperature=1.0, seed=1))
        assert drawn == client.complete(PROMPTS[:1], Decoding(10, temperature=1.0, seed=1))
        assert drawn != client.complete(PROMPTS[:1], Decoding(10, temperature=1.0, seed=2))
        assert client.fits("the cat", Decoding(40))
        assert not client.fits("the cat", Decoding(64))

    def test_a_chat(self, published: Callable[..., Path]) -> None:
        template = "{% for turn in messages %}<s>{{ turn.content }}</s>{% endfor %}{{ 'my ' }}"
        folder = published("gpt2", template)
        chat, plain = HuggingFaceClient(folder, chat=True), HuggingFaceClient(folder)
        assert chat.complete(["the cat"], Decoding(8)) == plain.complete(["<s>the cat</s>my "], Decoding(8))
        assert chat.complete(["the cat"], Decoding(8)) != plain.complete(["the cat"], Decoding(8))
        assert (chat.prompt_style, plain.prompt_style) == ("instruction", "docstring")
        assert chat.name != plain.name

    def test_refusals(self, published: Callable[..., Path], tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"`language_model.chat` must be false, because the tokenizer of"):
            HuggingFaceClient(published("gpt2"), chat=True)
        with pytest.raises(InputError, match=r"must be causal, but .* is bidirectional"):
            HuggingFaceClient(published("bert"))
        with pytest.raises(InputError, match="does not exist"):
            HuggingFaceClient(tmp_path / "nowhere")
        folder = published("gpt2")
        for file in folder.glob("tokenizer*"):
            file.unlink()
        with pytest.raises(InputError, match="must bring its tokenizer"):
            HuggingFaceClient(folder)


class TestEncoder:
    TEXTS = ("the cat sees my aunt 3.", "a dog", "this river forgets a dog 7. " * 3)

    def test_means_of_hidden_states(self, published: Callable[..., Path]) -> None:
        import transformers

        folder = published("bert")
        vectors = EncoderEmbedder(folder, batch_size=2)(self.TEXTS)
        model = transformers.AutoModel.from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        for text, vector in zip(self.TEXTS, vectors, strict=True):
            ids = tokenizer(text).input_ids
            with torch.no_grad():
                mean = model(torch.tensor([[0, *ids, 1]])).last_hidden_state[0].mean(0)
            torch.testing.assert_close(torch.from_numpy(vector), mean / mean.norm(), atol=2e-5, rtol=0)

    def test_long_texts_are_cut(self, published: Callable[..., Path]) -> None:
        folder = published("bert")
        long, longer = EncoderEmbedder(folder, max_length=8)(
            ["a dog sees a dog sees a dog", "a dog sees a dog sees my"]
        )
        torch.testing.assert_close(torch.from_numpy(long), torch.from_numpy(longer), atol=1e-6, rtol=0)

    def test_it_must_see_both_ways(self, published: Callable[..., Path]) -> None:
        with pytest.raises(InputError, match="`encoder` must be a bidirectional model"):
            EncoderEmbedder(published("gpt2"))
