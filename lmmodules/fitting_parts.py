"""Whether the parts of a run fit: told in one sentence, with the override that mends it, before a step is taken."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

from lmmodules.command import conf_directory, missing_value
from lmmodules.errors import InputError, check_seed, check_whole_number
from lmmodules.network import is_wrapped

if TYPE_CHECKING:
    from lmmodules.data import DataModule


def check(config: DictConfig) -> None:
    """Find, before anything is imported or prepared, what cannot work.

    Raises:
        InputError: With the override that mends it.
    """
    if OmegaConf.is_missing(config, "max_steps") or config.max_steps is None:
        raise InputError(missing_value("max_steps"))
    for name in ("max_steps", "log_every_steps", "validate_every_steps", "checkpoint_every_steps"):
        check_whole_number(name, config[name], least=1, of="optimizer steps")
    check_whole_number("trainer.accumulate_grad_batches", config.trainer.accumulate_grad_batches, least=1)
    check_seed(config.seed)
    if (
        str(config.trainer.precision) == "16-mixed"
        and config.optimizer.get("fused")
        and config.trainer.gradient_clip_val
    ):
        raise InputError(
            "`precision=fp16` cannot clip gradients before a fused optimizer has unscaled them; use "
            "`optimizer.fused=false`, or `precision=bf16`, which needs no scale"
        )
    if config.data.get("validation_fraction") == 1 and config.data.get("validation_corpus") is None:
        raise InputError(
            "`data.validation_fraction` must be less than 1 to leave text to train on, but is 1; "
            "use `data.validation_fraction=0.05`"
        )
    check_strategy(config)
    if config.resume is not None:
        resume_file(config.resume)


def check_strategy(config: DictConfig) -> None:
    """Find what a strategy of `lmmodules.parallel` cannot spread, as far as the configuration tells.

    Raises:
        InputError: When the optimizer cannot update parts of parameters, or the network has no equal parts.
    """
    strategy = config.trainer.strategy
    if not OmegaConf.is_dict(strategy) or not str(strategy._target_).startswith("lmmodules.parallel."):
        return
    if str(config.optimizer._target_).endswith(".Adafactor"):
        raise InputError(
            "`optimizer=adafactor` needs whole parameters, since torch cannot take its steps on parts, but FSDP and "
            "tensor parallelism spread them; use `optimizer=adamw` or `strategy=ddp`"
        )
    ranks = strategy.get("tensor_parallel_size", 1)
    if not isinstance(ranks, int) or ranks < 2:
        return
    from lmmodules.parallel.tensor_parallel import NO_TRANSFORMER, check_divides

    if is_wrapped(config):
        raise InputError(NO_TRANSFORMER)
    names = ("num_heads", "num_kv_heads", "intermediate_size", "vocab_size")
    check_divides({name: config.model[name] for name in names if config.model.get(name)}, ranks)


def match_tokenizer(config: DictConfig, overrides: Sequence[str]) -> None:
    """Leave out what an experiment says of its own tokenizer where another was chosen: its size, say, or its name.

    Args:
        config: Whose `tokenizer` may hold options of another one.
        overrides: Those of the command line, which says nothing in vain.

    Raises:
        InputError: When the command line sets an option that the chosen tokenizer does not have.
    """
    node = config.tokenizer
    options = inspect.signature(get_object(node._target_)).parameters
    if any(option.kind is inspect.Parameter.VAR_KEYWORD for option in options.values()):
        return
    foreign = {name for name in node if not str(name).startswith("_") and name not in options}
    if not foreign:
        return
    for name in foreign & _tokenizer_options():
        override = next((given for given in overrides if re.match(rf"\+{{0,2}}tokenizer\.{name}=", given)), None)
        if override is not None:
            raise InputError(
                f"`tokenizer.{name}` must be left out, since `tokenizer={chosen('tokenizer') or node._target_}` has no "
                f"such option, but `{override}` was given; choose another `tokenizer` to use it"
            )
        with open_dict(config):
            del node[name]


def _tokenizer_options() -> set[str]:
    """The options of all tokenizers there are."""
    files = (conf_directory() / "tokenizer").glob("*.yaml")
    return {str(name) for file in files for name in OmegaConf.load(file)}


def match_vocabulary(config: DictConfig, data: DataModule) -> None:
    """Give the model the tokenizer's vocabulary, or check that it is large enough.

    Raises:
        InputError: When it is not.
    """
    if config.model.vocab_size is None:
        config.model.vocab_size = data.vocab_size
    elif config.model.vocab_size < data.vocab_size:
        raise InputError(
            f"`model.vocab_size` must be at least that of the tokenizer ({data.vocab_size}), "
            f"but is {config.model.vocab_size}; use `model.vocab_size={data.vocab_size}`"
        )


def match_objective(config: DictConfig, data: DataModule) -> None:
    """Tell the objective what only the data knows, its classes say, or check that both agree.

    Raises:
        InputError: When they do not.
    """
    for name, value in data.objective_settings.items():
        given = config.objective.get(name)
        if given is None:
            config.objective[name] = value
        elif list(given) != value:
            raise InputError(
                f"`objective.{name}` must be that of the data, {value}, but is {list(given)}; "
                f"use `objective.{name}=null`"
            )


def match_checkpoint(config: DictConfig, data: DataModule) -> None:
    """Compare the run with the checkpoint it is to go on from.

    Raises:
        InputError: When the checkpoint is damaged or foreign, is of another network, tokenizer or optimizer, or has
            reached the end already.
    """
    from lmmodules.callbacks.config_snapshot import SNAPSHOT_KEY
    from lmmodules.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(resume_file(config.resume))
    snapshot = checkpoint[SNAPSHOT_KEY]
    if snapshot["tokenizer"] != data.tokenizer.to_json():
        raise InputError(
            f"`resume={config.resume}` was trained with another tokenizer; use the `tokenizer` and `data` settings it "
            "was started with"
        )
    for part in ("model", "objective"):
        here = OmegaConf.to_container(config[part], resolve=True)
        assert isinstance(here, dict)
        for key in (here.keys() | snapshot[part].keys()) - {"weights"}:  # where it began, which is no matter now
            if here.get(key) != snapshot[part].get(key):
                raise InputError(
                    f"`{part}.{key}` must be {snapshot[part].get(key)}, as in `resume={config.resume}`, but is "
                    f"{here.get(key)}; use `{part}.{key}={snapshot[part].get(key)}`"
                )
    before = snapshot["config"].get("optimizer", {}).get("_target_", config.optimizer._target_)
    if before != config.optimizer._target_:
        raise InputError(
            f"`optimizer` must be `{before}`, as in `resume={config.resume}`, but is `{config.optimizer._target_}`; "
            "use the optimizer it was started with"
        )
    if checkpoint["global_step"] >= config.max_steps:
        raise InputError(
            f"`max_steps` must be more than the {checkpoint['global_step']} steps that `resume={config.resume}` has "
            f"taken, but is {config.max_steps}"
        )


def devices_per_node(config: DictConfig) -> int:
    """Processes that `trainer.devices` starts on one machine."""
    devices = config.trainer.devices
    if OmegaConf.is_list(devices):
        return len(devices)
    if isinstance(devices, str) and devices.isdigit():
        devices = int(devices)
    if devices in ("auto", -1, "-1"):
        # What "all" is depends on the machine: of processors there is one.
        if config.trainer.accelerator == "cpu":
            return 1
        import torch

        return max(1, torch.cuda.device_count())
    return int(devices)


def chosen(group: str) -> str | None:
    """What was chosen of a config group, where Hydra runs the command."""
    if not HydraConfig.initialized():
        return None
    choice = HydraConfig.get().runtime.choices.get(group)
    return None if choice is None else str(choice)


def resume_file(path: str) -> Path:
    """The checkpoint to go on from.

    Args:
        path: A checkpoint, or the directory of a run.

    Raises:
        InputError: When there is none, or it holds weights alone.
    """
    from lmmodules.checkpoint import WEIGHTS_SUFFIX, resolve_checkpoint

    try:
        file = resolve_checkpoint(path)
    except InputError as error:
        raise InputError(str(error).replace("`checkpoint`", "`resume`")) from error
    if file.suffix == WEIGHTS_SUFFIX:
        raise InputError(
            f"`resume` must be a checkpoint, with the states of its optimizer, but `{path}` holds weights alone; use "
            f"`model.weights={path}`"
        )
    return file
