"""Prompts of an export with a network that only transformers runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.evaluation.generation import generate
from lmmodules.evaluation.prompted_model import PromptedModel
from lmmodules.models.prompt_files import write_prompts


@pytest.fixture
def network(tmp_path: Path, texts: Path) -> Path:
    """A small OPT with its tokenizer."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path / "network"
    backend = tokenizers.ByteLevelBPETokenizer()
    backend.train([str(file) for file in texts.iterdir()], vocab_size=300, special_tokens=["</s>"], show_progress=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformers.OPTForCausalLM(
        transformers.OPTConfig(vocab_size=300, ffn_dim=64, max_position_embeddings=64, **sizes)
    )
    for parameter in model.parameters():  # so that the likeliest tokens are not all the same
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def test_it_writes_what_transformers_writes_behind_the_same_embeddings(network: Path, tmp_path: Path) -> None:
    import transformers

    prompt = torch.randn(3, 32)
    write_prompts(tmp_path, {"R1": prompt}, {"R1": "{prompt:3} {subject} is {target}", "R2": " {subject} is {target}"})
    read = PromptedModel.read(tmp_path, network)
    plain, without = read.filled_in("the cat", "R2")
    prompted, ids = read.filled_in("the cat")  # of the first task
    assert ids == [300, 301, 302, *without]
    written = generate(prompted, [ids], max_new_tokens=8, temperature=0)[0]

    model = transformers.AutoModelForCausalLM.from_pretrained(network).eval()
    table = model.get_input_embeddings().weight
    embeddings = torch.cat([prompt, table[without]])[None]
    for token in written:
        with torch.no_grad():
            assert int(model(inputs_embeds=embeddings).logits[0, -1].argmax()) == token
        embeddings = torch.cat([embeddings, table[None, None, token]], dim=1)
    assert plain is read


def test_a_network_that_sees_both_ways_does_not_write(network: Path, tmp_path: Path) -> None:
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=300, **sizes)).save_pretrained(network)
    write_prompts(tmp_path, {"R1": torch.randn(3, 32)}, {"R1": "{prompt:3} {subject} is {target}"})
    with pytest.raises(InputError, match=r"`backbone` must be a causal network to write text, but .* is bidirectional"):
        PromptedModel.read(tmp_path, network)
