"""`lmm-generate`: let a checkpoint write."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lmmodules.command import missing_value, run_command
from lmmodules.errors import InputError, check_whole_number

if TYPE_CHECKING:
    from lmmodules.data import Tokenizer
    from lmmodules.objectives import LanguageModel

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no whole character yet."""


def main() -> None:
    """Console script."""
    run_command(generate, "generate", texts=("prompt", "prefix", "suffix"))


def generate(config: DictConfig) -> list[str]:
    """Write on from a prompt, or between a prefix and a suffix, showing the text as it comes.

    Args:
        config: Composed from `conf/generate.yaml`.

    Returns:
        The continuations, or the middles.
    """
    from lmmodules.checkpoint import load, load_tokenizer
    from lmmodules.models.floating_point import flush_denormals
    from lmmodules.objectives import LanguageModel

    fills_in = config.prefix is not None or config.suffix is not None
    if fills_in and config.prompt is not None:
        raise InputError(
            "`prompt` is written on from, `prefix` and `suffix` are written between: give one or the other"
        )
    for key in ("checkpoint",) if fills_in else ("checkpoint", "prompt"):
        if config[key] is None:
            raise InputError(missing_value(key))
    for name, least in (("num_samples", 1), ("max_new_tokens", 1), ("seed", 0)):
        check_whole_number(name, config[name], least=least)
    if config.max_length is not None:
        check_whole_number("max_length", config.max_length, least=1)
    flush_denormals()  # before torch starts its threads
    tokenizer = load_tokenizer(config.checkpoint)
    objective = load(config.checkpoint, device=config.device)
    if not isinstance(objective, LanguageModel) or not objective.backbone.causal:
        raise InputError(
            f"`checkpoint` must hold a causal model to write text, but it holds a `{type(objective).__name__}`"
        )
    return (fill_in if fills_in else write_on)(config, objective, tokenizer)


def write_on(config: DictConfig, objective: LanguageModel, tokenizer: Tokenizer) -> list[str]:
    """Continue a prompt, sample by sample.

    Args:
        config: See `generate`.
        objective: The checkpoint's.
        tokenizer: The checkpoint's.
    """
    from lmmodules.evaluation.generation import generate as generate_tokens

    prompt = prompt_ids(config, objective, tokenizer)
    continuations = []
    for sample in range(config.num_samples):
        _announce(sample, config.num_samples)
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


def prompt_ids(config: DictConfig, objective: LanguageModel, tokenizer: Tokenizer) -> list[int]:
    """The tokens to write on from: those of the prompt, within its template if the checkpoint is of P-tuning.

    Args:
        config: See `generate`.
        objective: The checkpoint's; pseudo-tokens become tokens of its network.
        tokenizer: The checkpoint's.

    Raises:
        InputError: When the template has not one field for the prompt to stand in.
    """
    from lmmodules.callbacks.config_snapshot import SNAPSHOT_KEY
    from lmmodules.checkpoint import read_checkpoint
    from lmmodules.data.prompt_rows import PromptLayout
    from lmmodules.export import prompt_templates
    from lmmodules.models.prompt_files import prompts_as_tokens
    from lmmodules.objectives.p_tuning import PTuning

    if not isinstance(objective, PTuning):
        return tokenizer.encode(str(config.prompt)) or [tokenizer.eos_id]
    templates = prompt_templates(objective, read_checkpoint(config.checkpoint)[SNAPSHOT_KEY])
    task = objective.tasks[0] if config.get("task") is None else str(config.task)
    if task not in templates:
        raise InputError(f"`task` must be one of {', '.join(templates)}, but is {task}")
    template = templates[task]
    if len(template.fields) != 1:
        raise InputError(
            f"`prompt` fills in the one field of a template, but that of {task} has the fields "
            f"{', '.join(template.fields)}"
        )
    first = sum(objective.prompt_lengths[: objective.tasks.index(task)])
    layout = PromptLayout(tokenizer, True, objective.backbone.max_length or 1 << 30)
    columns = {template.fields[0]: [str(config.prompt)]}
    row = layout.rows(template, columns, [[tokenizer.eos_id]], first_prompt=first)[0]
    table = objective.prompts()
    if table is None:
        return row.input_ids
    size = objective.backbone.token_embedding.num_embeddings
    objective.head = prompts_as_tokens(objective.backbone, objective.head, table)
    pairs = zip(row.input_ids, row.prompt_ids, strict=True)
    return [token if prompt < 0 else size + prompt for token, prompt in pairs]


def fill_in(config: DictConfig, objective: LanguageModel, tokenizer: Tokenizer) -> list[str]:
    """Write between a prefix and a suffix: one sample while it is written, several in one batch.

    Args:
        config: See `generate`.
        objective: The checkpoint's.
        tokenizer: The checkpoint's.

    Raises:
        InputError: When the checkpoint was not trained to fill in, or the suffix is longer than its context.
    """
    from lmmodules.callbacks.config_snapshot import SNAPSHOT_KEY
    from lmmodules.checkpoint import read_checkpoint
    from lmmodules.data.fim_sentinels import Sentinels
    from lmmodules.evaluation.infill import check_fills_in, infill_batch

    check_fills_in(objective)
    trained = read_checkpoint(config.checkpoint)[SNAPSHOT_KEY]["config"]
    transform = trained.get("transform", {})
    if transform.get("fim_rate") == 0:
        raise InputError(
            "filling in needs a model that was trained to, but `checkpoint` was trained with `transform.fim_rate=0`; "
            "train one with `objective=fim transform.fim_rate=0.5`"
        )
    names = [transform.get(f"{piece}_token", f"<fim_{piece}>") for piece in ("prefix", "suffix", "middle")]
    prefix, suffix = str(config.prefix or ""), str(config.suffix or "")
    stream = TextStream(tokenizer.decode, prefix, suffix) if config.num_samples == 1 else None
    middles = infill_batch(
        objective,
        tokenizer,
        [(prefix, suffix)] * config.num_samples,
        order=config.order,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        seed=config.seed,
        sentinels=Sentinels.of(tokenizer, *names),
        max_length=trained.get("data", {}).get("max_length") if config.max_length is None else config.max_length,
        stream=stream,
    )
    if stream is not None:
        stream.close()
    else:
        for sample, middle in enumerate(middles):
            _announce(sample, len(middles))
            print(f"{prefix}{middle.text}{suffix}")
    return [middle.text for middle in middles]


def _announce(sample: int, num_samples: int) -> None:
    if num_samples > 1:
        print(f"--- {sample + 1} of {num_samples}")


class TextStream:
    """Prints the text of a continuation while its tokens arrive.

    A character may be spelt by several tokens, so text is printed only as far as it can no longer change.

    Args:
        decode: Token ids to text.
        prompt: Printed before the continuation, once there is one.
        suffix: Printed behind it.
    """

    def __init__(self, decode: Callable[[list[int]], str], prompt: str = "", suffix: str = "") -> None:
        self._decode = decode
        self._prompt = prompt
        self._suffix = suffix
        self._ids: list[int] = []
        self._printed = 0

    def __call__(self, step: list[int | None]) -> None:
        """Take the newest token of the one prompt there is."""
        if step[0] is not None:
            self._ids.append(step[0])
            self._print(self._decode(self._ids).rstrip(UNFINISHED))

    def close(self) -> None:
        """Print what is left, finished or not."""
        self._print(self._decode(self._ids) + self._suffix + "\n")

    def _print(self, text: str) -> None:
        sys.stdout.write(self._prompt + text[self._printed :])
        self._prompt = ""
        sys.stdout.flush()
        self._printed = max(self._printed, len(text))


if __name__ == "__main__":
    main()
