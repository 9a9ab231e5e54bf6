"""`lmm-generate`: let a checkpoint write."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lmmodules.command import missing_value, run_command
from lmmodules.errors import InputError, check_seed, check_whole_number

if TYPE_CHECKING:
    from lmmodules.data import Tokenizer
    from lmmodules.evaluation.generation import Writer
    from lmmodules.evaluation.prompted_model import PromptedModel
    from lmmodules.objectives import LanguageModel
    from lmmodules.objectives.p_tuning import PTuning

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

    Raises:
        InputError: When what is given does not go together, is missing, or cannot write.
    """
    from lmmodules.checkpoint import load, load_tokenizer
    from lmmodules.evaluation.prompted_model import PromptedModel
    from lmmodules.models.floating_point import flush_denormals
    from lmmodules.models.prompt_files import holds_prompts
    from lmmodules.objectives import LanguageModel
    from lmmodules.objectives.p_tuning import PTuning

    fills_in = config.prefix is not None or config.suffix is not None
    if fills_in and config.prompt is not None:
        raise InputError(
            "`prompt` is written on from, `prefix` and `suffix` are written between: give one or the other"
        )
    for key in ("checkpoint",) if fills_in else ("checkpoint", "prompt"):
        if config[key] is None:
            raise InputError(missing_value(key))
    for name, least in (("num_samples", 1), ("max_new_tokens", 1)):
        check_whole_number(name, config[name], least=least)
    check_seed(config.seed)
    if config.max_length is not None:
        check_whole_number("max_length", config.max_length, least=1)
    flush_denormals()  # before torch starts its threads
    if not fills_in and holds_prompts(config.checkpoint):
        return write_in_template(config, PromptedModel.read(config.checkpoint, config.backbone, device=config.device))
    if config.backbone is not None:
        raise InputError(
            "`backbone` is the network of an export of P-tuning, but `checkpoint` brings its own; use `backbone=null`"
        )
    tokenizer = load_tokenizer(config.checkpoint)
    objective = load(config.checkpoint, device=config.device)
    if not isinstance(objective, LanguageModel) or not objective.backbone.causal:
        raise InputError(
            f"`checkpoint` must hold a causal model to write text, but it holds a `{type(objective).__name__}`"
        )
    if fills_in:
        return fill_in(config, objective, tokenizer)
    if isinstance(objective, PTuning):
        return write_in_template(config, prompted_model(config, objective, tokenizer))
    return write_on(config, objective, tokenizer, tokenizer.encode(str(config.prompt)) or [tokenizer.eos_id])


def write_on(config: DictConfig, model: Writer, tokenizer: Tokenizer, prompt: list[int]) -> list[str]:
    """Continue a prompt, sample by sample.

    Args:
        config: See `generate`.
        model: Of the checkpoint or the export.
        tokenizer: Of the model.
        prompt: Tokens to write on from.
    """
    from lmmodules.evaluation.generation import generate as generate_tokens

    continuations = []
    for sample in range(config.num_samples):
        _announce(sample, config.num_samples)
        stream = TextStream(tokenizer.decode, str(config.prompt))
        written = generate_tokens(
            model,
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


def write_in_template(config: DictConfig, model: PromptedModel) -> list[str]:
    """Continue a prompt within the template of a task of P-tuning.

    Args:
        config: See `generate`.
        model: Of the checkpoint or the export.
    """
    task = None if config.get("task") is None else str(config.task)
    prompted, ids = model.filled_in(str(config.prompt), task)
    return write_on(config, prompted, model.tokenizer, ids)


def prompted_model(config: DictConfig, objective: PTuning, tokenizer: Tokenizer) -> PromptedModel:
    """What a checkpoint of P-tuning has learned.

    Args:
        config: See `generate`.
        objective: The checkpoint's.
        tokenizer: The checkpoint's.
    """
    from lmmodules.checkpoint import read_snapshot
    from lmmodules.evaluation.prompted_model import PromptedModel
    from lmmodules.export import prompt_templates

    templates = prompt_templates(objective, read_snapshot(config.checkpoint))
    return PromptedModel(objective.backbone, objective.head, tokenizer, objective.folded(), templates)


def fill_in(config: DictConfig, objective: LanguageModel, tokenizer: Tokenizer) -> list[str]:
    """Write between a prefix and a suffix: one sample while it is written, several in one batch.

    Args:
        config: See `generate`.
        objective: The checkpoint's.
        tokenizer: The checkpoint's.

    Raises:
        InputError: When the checkpoint was not trained to fill in, or the suffix is longer than its context.
    """
    from lmmodules.checkpoint import read_snapshot
    from lmmodules.data.fim_sentinels import Sentinels
    from lmmodules.evaluation.infill import check_fills_in, infill_batch

    check_fills_in(objective)
    trained = read_snapshot(config.checkpoint)["config"]
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
