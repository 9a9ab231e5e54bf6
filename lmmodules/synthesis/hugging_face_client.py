"""Published causal language models: read by ourselves where we know their family, else run by transformers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmmodules.errors import InputError, require
from lmmodules.models.heads import LanguageModelHead
from lmmodules.models.transformer import Transformer
from lmmodules.synthesis.causal_client import CausalClient, fingerprint
from lmmodules.synthesis.client import Decoding


class HuggingFaceClient:
    """A published causal language model with its own tokenizer.

    Args:
        path: A folder, a GGUF file, or a name on the hub.
        device: Where it runs.
        batch_size: See `Client`.
        chat: Put prompts to it as a user of its chat would, for models that were trained to follow instructions.

    Raises:
        InputError: When transformers is missing, there is no such model, it is not causal, or it knows no chat.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, device: str = "cpu", batch_size: int = 4, chat: bool = False
    ) -> None:
        from lmmodules.models.hugging_face_defaults import DEFAULTS
        from lmmodules.models.hugging_face_folder import find_model

        place = find_model(path)
        tokenizer = _tokenizer(place)
        if chat and not tokenizer.chat_template:
            raise InputError(
                f"`language_model.chat` must be false, because the tokenizer of `{path}` knows no form of a chat; "
                "use `language_model.chat=false`"
            )
        encode = _chat_encoder(tokenizer) if chat else _encoder(tokenizer)
        modules: nn.Module
        if place.suffix == ".gguf" or _family(place) in DEFAULTS:
            pair = _Pair.read(place, device)
            modules = nn.ModuleList([pair.backbone, pair.head])
            self._inner: CausalClient | _TransformersWriter = CausalClient(
                pair, encode, tokenizer.decode, [tokenizer.eos_token_id], name="", batch_size=batch_size
            )
        else:
            modules = _foreign(place, device)
            self._inner = _TransformersWriter(modules, tokenizer, encode)
        # Without the path: the same weights write the same, wherever they lie.
        self.name = f"{place.stem} {fingerprint(modules)}" + (" in chat" if chat else "")
        self.prompt_style = "instruction" if chat else "docstring"
        self.batch_size = batch_size

    def fits(self, prompt: str, decoding: Decoding) -> bool:
        """Whether prompt and completion stay within the positions of the model.

        Args:
            prompt: To be written on from.
            decoding: How much is written.
        """
        return self._inner.fits(prompt, decoding)

    def complete(self, prompts: Sequence[str], decoding: Decoding) -> list[str]:
        """Write on from prompts.

        Args:
            prompts: To be written on from, or to be answered.
            decoding: How.
        """
        return self._inner.complete(prompts, decoding)


@dataclass(frozen=True)
class _Pair:
    """A backbone and a head that nobody trains."""

    backbone: Transformer
    head: LanguageModelHead

    @classmethod
    def read(cls, place: Path, device: str) -> _Pair:
        from lmmodules.models.hugging_face_folder import from_hugging_face

        backbone, head = from_hugging_face(place)
        if not backbone.causal:
            raise InputError(f"a model that writes programs must be causal, but `{place}` is bidirectional")
        return cls(backbone.to(device).eval(), head.to(device).eval())


class _TransformersWriter:
    """A model that transformers runs, one prompt at a time."""

    def __init__(self, model: Any, tokenizer: Any, encode: Callable[[str], list[int]]) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._encode = encode
        self._longest: int | None = getattr(model.config, "max_position_embeddings", None)

    def fits(self, prompt: str, decoding: Decoding) -> bool:
        return self._longest is None or len(self._encode(prompt)) + decoding.max_new_tokens <= self._longest

    def complete(self, prompts: Sequence[str], decoding: Decoding) -> list[str]:
        return [self._complete(prompt, decoding) for prompt in prompts]

    def _complete(self, prompt: str, decoding: Decoding) -> str:
        ids = torch.tensor([self._encode(prompt)], device=self._model.device)
        draws: dict[str, Any] = {"do_sample": False}
        if decoding.temperature > 0:
            top_p = 1.0 if decoding.top_p is None else decoding.top_p
            draws = {"do_sample": True, "temperature": decoding.temperature, "top_p": top_p, "top_k": 0}
        if decoding.stop:
            draws |= {"stop_strings": list(decoding.stop), "tokenizer": self._tokenizer}
        with torch.random.fork_rng():
            torch.manual_seed(decoding.seed)
            written = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=decoding.max_new_tokens,
                pad_token_id=self._tokenizer.eos_token_id,
                **draws,
            )
        text: str = self._tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
        return decoding.cut(text)


def _family(place: Path) -> str:
    from lmmodules.models.hugging_face_fields import read_fields

    return str(read_fields(str(place)).get("model_type"))


def _foreign(place: Path, device: str) -> Any:
    transformers = require("transformers", "hub", f"`{place}`")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(str(place), dtype=torch.float32)
    except Exception as error:  # of transformers, of the operating system
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"`{place}` cannot be loaded as a causal language model ({reason})") from error
    return model.to(device).eval()


def _tokenizer(place: Path) -> Any:
    """The tokenizer as its authors set it up: what it puts before a text belongs to a prompt."""
    transformers = require("transformers", "hub", f"`{place}`")
    source, options = str(place), {}
    if place.suffix == ".gguf":
        require("gguf", "gguf", f"`{place.name}`")
        source, options = str(place.parent), {"gguf_file": place.name}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:  # of transformers, of a damaged file
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"`{place}` must bring its tokenizer, but has none that can be read ({reason})") from error
    if not tokenizer("print")["input_ids"] or tokenizer.eos_token_id is None:  # transformers makes up an empty one
        raise InputError(f"`{place}` must bring its tokenizer, but has none that spells words and ends a text")
    return tokenizer


def _encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    def encode(prompt: str) -> list[int]:
        ids: list[int] = tokenizer(prompt)["input_ids"]
        return ids

    return encode


def _chat_encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    def encode(prompt: str) -> list[int]:
        turns = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    return encode
