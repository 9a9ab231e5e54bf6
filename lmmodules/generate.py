"""`lmm-generate`: let a checkpoint write."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from lmmodules.command import missing_value, run_command
from lmmodules.errors import InputError


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

    for key in ("checkpoint", "prompt"):
        if config[key] is None:
            raise InputError(missing_value(key))
    tokenizer = load_tokenizer(config.checkpoint)
    objective = load(config.checkpoint, device=config.device)
    if not objective.needs_causal:
        raise InputError(
            f"`checkpoint` must hold a causal model to write text, but it holds a `{type(objective).__name__}`"
        )
    prompt = tokenizer.encode(str(config.prompt)) or [tokenizer.eos_id]
    continuations = []
    for sample in range(config.num_samples):
        if config.num_samples > 1:
            print(f"--- {sample + 1} of {config.num_samples}")
        sys.stdout.write(str(config.prompt))
        stream = TextStream(tokenizer.decode)
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
        print()
        continuations.append(tokenizer.decode(written))
    return continuations


if __name__ == "__main__":
    main()
