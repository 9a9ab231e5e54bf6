"""`lmm-generate`: let a checkpoint write."""

from __future__ import annotations

import sys
from collections.abc import Callable

from omegaconf import DictConfig

from lmmodules.command import missing_value, run_command
from lmmodules.errors import InputError

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no whole character yet."""


def main() -> None:
    """Console script."""
    run_command(generate, "generate")


def generate(config: DictConfig) -> list[str]:
    """Write on from a prompt, showing the text as it comes.

    Args:
        config: Composed from `conf/generate.yaml`.

    Returns:
        The continuations.
    """
    from lmmodules.checkpoint import load, load_tokenizer
    from lmmodules.evaluation.generation import generate as generate_tokens
    from lmmodules.objectives import LanguageModel

    for key in ("checkpoint", "prompt"):
        if config[key] is None:
            raise InputError(missing_value(key))
    tokenizer = load_tokenizer(config.checkpoint)
    objective = load(config.checkpoint, device=config.device)
    if not isinstance(objective, LanguageModel) or not objective.backbone.causal:
        raise InputError(
            f"`checkpoint` must hold a causal model to write text, but it holds a `{type(objective).__name__}`"
        )
    prompt = tokenizer.encode(str(config.prompt)) or [tokenizer.eos_id]
    continuations = []
    for sample in range(config.num_samples):
        if config.num_samples > 1:
            print(f"--- {sample + 1} of {config.num_samples}")
        stream = TextStream(tokenizer.decode, str(config.prompt))
        written = generate_tokens(
            objective,
            [prompt],
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            stop_ids=[tokenizer.eos_id],
            seed=config.seed + sample,
            stream=stream,
        )[0]
        stream.close()
        continuations.append(tokenizer.decode(written))
    return continuations


class TextStream:
    """Prints the text of a continuation while its tokens arrive.

    A character may be spelt by several tokens, so text is printed only as far as it can no longer change.

    Args:
        decode: Token ids to text.
        prompt: Printed before the continuation, once there is one.
    """

    def __init__(self, decode: Callable[[list[int]], str], prompt: str = "") -> None:
        self._decode = decode
        self._prompt = prompt
        self._ids: list[int] = []
        self._printed = 0

    def __call__(self, step: list[int | None]) -> None:
        """Take the newest token of the one prompt there is."""
        if step[0] is not None:
            self._ids.append(step[0])
            self._print(self._decode(self._ids).rstrip(UNFINISHED))

    def close(self) -> None:
        """Print what is left, finished or not."""
        self._print(self._decode(self._ids) + "\n")

    def _print(self, text: str) -> None:
        sys.stdout.write(self._prompt + text[self._printed :])
        self._prompt = ""
        sys.stdout.flush()
        self._printed = max(self._printed, len(text))


if __name__ == "__main__":
    main()
