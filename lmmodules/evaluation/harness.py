"""EleutherAI's language-model evaluation harness on a causal objective as it is in memory, without an export."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError, check_whole_number, require
from lmmodules.evaluation.continuations import likelihoods
from lmmodules.evaluation.generation import Writer
from lmmodules.evaluation.stops import generate_until
from lmmodules.models.heads import LanguageModelHead
from lmmodules.objectives.causal_lm import CausalLM

if TYPE_CHECKING:
    from lmmodules.objectives import Objective

MAX_NEW_TOKENS = 256
"""Of an answer, where a task does not say."""
NAMES_OF_LENGTH = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""How tasks call the most tokens of an answer, those that go before others first."""


def harness_model(model: Writer, tokenizer: Tokenizer, *, batch_size: int = 16) -> Any:
    """What `lm_eval.simple_evaluate(model=...)` takes.

    A text without a context is scored behind the end token, as documents stand in training. What is longer than the
    positions of the model loses its beginning, as the harness does it; a model without a limit reads all of it.

    Args:
        model: A causal objective in evaluation mode, or anything else with a causal backbone and a head.
        tokenizer: The model's.
        batch_size: Texts that are scored, or written, together.

    Raises:
        InputError: When the harness is not installed, or the model is not causal or does not write.
    """
    base = require("lm_eval.api.model", "harness", "`evaluation=harness`")
    utils = require("lm_eval.utils", "harness", "`evaluation=harness`")
    if not model.backbone.causal or not isinstance(getattr(model, "head", None), LanguageModelHead):
        raise InputError(
            f"`evaluation=harness` needs a causal language model, but the checkpoint holds a `{type(model).__name__}`; "
            "use one that was trained with `objective=causal_lm`"
        )
    limit = model.backbone.max_length
    end = tokenizer.eos_id
    score = partial(likelihoods, model, batch_size=batch_size)

    class _HarnessModel(base.TemplateLM):  # type: ignore[misc, name-defined]
        """Text in, likelihoods and text out."""

        eot_token_id = end
        max_length = limit

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return tokenizer.encode(string)

        def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            pairs = [_within(limit, context or [end], continuation) for _, context, continuation in requests]
            contexts, continuations = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            return [(found.nats, found.is_likeliest) for found in score(contexts, continuations)]

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            contexts, continuations, texts = [], [], []
            for number, (text,) in enumerate(request.args for request in requests):
                ids = tokenizer.encode(text)
                for window in utils.get_rolling_token_windows(ids, end, limit or max(len(ids), 1), 1):
                    context, continuation = utils.make_disjoint_window(window)
                    contexts.append(context)
                    continuations.append(continuation)
                    texts.append(number)
            sums = [0.0] * len(requests)
            for number, found in zip(texts, score(contexts, continuations), strict=True):
                sums[number] += found.nats
            return sums

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            alike: dict[str, list[int]] = {}
            for number, request in enumerate(requests):
                alike.setdefault(repr(request.args[1]), []).append(number)
            answers = [""] * len(requests)
            for numbers in alike.values():
                options = requests[numbers[0]].args[1]
                prompts = {number: tokenizer.encode(requests[number].args[0]) or [end] for number in numbers}
                numbers.sort(key=lambda number, prompts=prompts: len(prompts[number]))  # type: ignore[misc]
                for start in range(0, len(numbers), batch_size):
                    chosen = numbers[start : start + batch_size]
                    written = _write(model, tokenizer, [prompts[number] for number in chosen], options)
                    for number, answer in zip(chosen, written, strict=True):
                        answers[number] = answer
            return answers

    return _HarnessModel()


def _within(limit: int | None, context: Sequence[int], continuation: Sequence[int]) -> tuple[list[int], list[int]]:
    """A context that has lost its beginning, where it and its continuation would not fit into the positions."""
    if not continuation:
        raise InputError(
            "`evaluation.tasks` must ask for continuations of at least one token, but one has none behind its context; "
            "give the choices of the task a letter or a blank before them"
        )
    if limit is None:
        return list(context), list(continuation)
    if len(continuation) > limit:
        raise InputError(
            f"`evaluation.tasks` must ask for continuations within the {limit} positions of the model, but one has "
            f"{len(continuation)} tokens; use a model with `position=alibi` or `position=rotary`"
        )
    return list(context)[-(limit + 1 - len(continuation)) :], list(continuation)


def _write(
    model: Writer, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], options: Mapping[str, Any]
) -> list[str]:
    """Answers to prompts of one task, which says how they are written and where they end."""
    stops = options.get("until") or []
    new_tokens = int(next((options[name] for name in NAMES_OF_LENGTH if options.get(name)), MAX_NEW_TOKENS))
    limit = model.backbone.max_length
    if limit is not None:
        new_tokens = min(new_tokens, limit - 1)
        prompts = [prompt[-(limit - new_tokens) :] for prompt in prompts]
    temperature = float(options.get("temperature") or 0.0)
    return generate_until(
        model,
        prompts,
        tokenizer.decode,
        [stops] if isinstance(stops, str) else list(stops),
        max_new_tokens=new_tokens,
        greedy=not options.get("do_sample", temperature > 0) or temperature == 0,
        temperature=temperature,
        top_k=options.get("top_k") or None,  # 0 is off, as transformers has it
        top_p=options.get("top_p"),
        stop_ids=[tokenizer.eos_id],
    )


@dataclass(frozen=True)
class Harness:
    """Tasks of the language-model evaluation harness, for any causal checkpoint.

    Args:
        tasks: Their names, as `lm-eval ls tasks` tells them, or the one.
        include_path: A folder with tasks of one's own.
        num_fewshot: Examples before each question; `None` for what the task says.
        limit: Questions of each task; `None` for all.
        batch_size: Texts that are scored together.

    Raises:
        InputError: When there are no tasks, or a number is out of range.

    Source:
        github.com/EleutherAI/lm-evaluation-harness; written for its version 0.4.13.
    """

    tasks: Sequence[str] | str
    include_path: str | os.PathLike[str] | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 16

    reads_text: ClassVar[bool] = False
    """It brings its own."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise InputError(
                "`evaluation.tasks` must name tasks of the harness, but there are none; use "
                "`evaluation.tasks=[lambada_openai]`"
            )
        check_whole_number("batch_size", self.batch_size, least=1, remedy="evaluation.batch_size=16")
        if self.num_fewshot is not None:
            check_whole_number("num_fewshot", self.num_fewshot, least=0, remedy="evaluation.num_fewshot=0")
        if self.limit is not None:
            check_whole_number("limit", self.limit, least=1, remedy="evaluation.limit=null")

    def __call__(self, objective: Objective, tokenizer: Tokenizer) -> dict[str, Any]:
        """Run the tasks.

        Args:
            objective: In evaluation mode.
            tokenizer: Its own.

        Returns:
            Each metric as `task/metric`, and where the harness tells its standard error, that as `task/metric_stderr`.

        Raises:
            InputError: When the harness is not installed, the model is not causal, or a task does not exist.
        """
        if not isinstance(objective, CausalLM):
            raise InputError(
                f"`evaluation=harness` needs a checkpoint of `objective=causal_lm` or its kind, but this one is of "
                f"`{type(objective).__name__}`; use `evaluation=perplexity`, or the evaluation of its objective"
            )
        lm_eval = require("lm_eval", "harness", "`evaluation=harness`")
        tasks = [self.tasks] if isinstance(self.tasks, str) else list(self.tasks)
        manager = require("lm_eval.tasks", "harness", "`evaluation=harness`").TaskManager
        if self.include_path is not None:
            # Of thousands of tasks the harness reads the files, which takes long: not if one's own are all there is.
            known = manager(include_path=str(self.include_path), include_defaults=False)
        if self.include_path is None or not set(tasks) <= set(known.all_tasks):
            known = manager(include_path=None if self.include_path is None else str(self.include_path))
        model = harness_model(objective, tokenizer, batch_size=self.batch_size)
        missing = [task for task in tasks if task not in known.all_tasks]
        if missing:
            raise InputError(
                f"`evaluation.tasks` must be tasks of the harness, but `{'`, `'.join(missing)}` is none; "
                "`lm-eval ls tasks` tells them, and `evaluation.include_path=DIR` adds those of a folder"
            )
        found = lm_eval.simple_evaluate(
            model=model, tasks=tasks, num_fewshot=self.num_fewshot, limit=self.limit, task_manager=known
        )
        return _figures(found["results"])


def _figures(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The harness names a metric `acc,none` after its filter, and its standard error `acc_stderr,none`."""
    figures: dict[str, Any] = {}
    for task, metrics in results.items():
        for name, value in metrics.items():
            metric, comma, kind = name.partition(",")
            if comma and isinstance(value, int | float):
                figures[f"{task}/{metric}" + ("" if kind == "none" else f" ({kind})")] = float(value)
    return figures
