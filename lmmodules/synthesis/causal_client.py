"""Language models in this process: a causal backbone with its head, and the one of a checkpoint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence

from torch import nn

from lmmodules.errors import InputError
from lmmodules.evaluation.generation import Writer
from lmmodules.evaluation.stops import generate_until
from lmmodules.synthesis.client import Decoding


class CausalClient:
    """A causal backbone with a head, written on from token by token.

    Args:
        model: With `backbone` and `head`.
        encode: A prompt to tokens.
        decode: Tokens to text.
        stop_ids: Tokens that end a completion.
        name: What the model is.
        prompt_style: See `Client`.
        batch_size: See `Client`.
    """

    def __init__(
        self,
        model: Writer,
        encode: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
        stop_ids: Sequence[int],
        *,
        name: str,
        prompt_style: str = "docstring",
        batch_size: int = 8,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"`batch_size` must be at least 1, but is {batch_size}; use `language_model.batch_size=8`")
        self.model = model
        self.name = name
        self.prompt_style = prompt_style
        self.batch_size = batch_size
        self._encode = encode
        self._decode = decode
        self._stop_ids = list(stop_ids)

    def fits(self, prompt: str, decoding: Decoding) -> bool:
        """Whether prompt and completion stay within the positions of the model.

        Args:
            prompt: To be written on from.
            decoding: How much is written.
        """
        longest = self.model.backbone.max_length
        return longest is None or len(self._encode(prompt)) + decoding.max_new_tokens <= longest

    def complete(self, prompts: Sequence[str], decoding: Decoding) -> list[str]:
        """Write on from prompts in one batch, until each has met a stop, ended or is long enough.

        Args:
            prompts: To be written on from.
            decoding: How.
        """
        return generate_until(
            self.model,
            [self._encode(prompt) or self._stop_ids[:1] for prompt in prompts],
            self._decode,
            decoding.stop,
            max_new_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            stop_ids=self._stop_ids,
            seed=decoding.seed,
        )


class CheckpointClient(CausalClient):
    """A checkpoint of `lmm-train`.

    Args:
        path: A checkpoint, or the directory of a run.
        device: Where it runs.
        batch_size: See `Client`.

    Raises:
        InputError: When there is none, or it does not hold a causal language model.
    """

    def __init__(self, path: str | os.PathLike[str], *, device: str = "cpu", batch_size: int = 16) -> None:
        from lmmodules.checkpoint import load, load_tokenizer, read_snapshot
        from lmmodules.objectives import LanguageModel

        objective = load(path, device=device)
        if not isinstance(objective, LanguageModel) or not objective.backbone.causal:
            raise InputError(
                f"`checkpoint` must hold a causal model to write programs, but it holds a `{type(objective).__name__}`"
            )
        tokenizer = load_tokenizer(path)
        trained = read_snapshot(path).get("config", {}).get("data", {})
        super().__init__(
            objective,
            tokenizer.encode,
            tokenizer.decode,
            [tokenizer.eos_id],
            name=f"checkpoint {fingerprint(objective)}",
            prompt_style=str(trained.get("prompt_style") or "docstring"),
            batch_size=batch_size,
        )


def fingerprint(module: nn.Module) -> str:
    """What tells the weights of a network from others: 16 hexadecimal digits of a sample of every tensor.

    Args:
        module: On any device.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 256)].double().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()
