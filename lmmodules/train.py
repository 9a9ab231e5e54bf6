"""`lmm-train`: from a configuration to a trained model and everything a run leaves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from lmmodules.command import is_first_process, quiet_lightning, run_command
from lmmodules.errors import InputError
from lmmodules.failure import failure_told
from lmmodules.fitting_parts import (
    check,
    check_strategy,
    chosen,
    match_checkpoint,
    match_objective,
    match_tokenizer,
    match_vocabulary,
    resume_file,
)
from lmmodules.launch import check_launch, checkpoint_before_restart, cluster_environments, processes_wanted
from lmmodules.network import build_backbone, network_node, settle_model
from lmmodules.rank_warnings import warnings_once
from lmmodules.run_lock import only_run_in

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # torch and lightning are imported when a run begins, so that --help and errors come at once
    import lightning as L

    from lmmodules.data import DataModule
    from lmmodules.objectives import Objective


def main() -> None:
    """Console script."""
    run_command(train, "train")


@dataclass
class Run:
    """What a configuration builds: the parts of a training run, ready to fit."""

    config: DictConfig
    data: DataModule
    objective: Objective
    trainer: L.Trainer

    @property
    def directory(self) -> Path:
        """Where the run leaves what it makes."""
        return Path(self.config.paths.output_dir)

    def fit(self) -> dict[str, Any]:
        """Train, validate, save, and write the summary and the pictures.

        Returns:
            The summary, as in `summary.json`.
        """
        from lmmodules.report import write_summary

        resume = None if self.config.resume is None else str(resume_file(self.config.resume))
        with told_where_to_go_on(self):
            self.trainer.fit(self.objective, self.data, ckpt_path=resume)
        self.trainer.save_checkpoint(self.directory / "checkpoints" / "last.ckpt")
        if self.data.holds_out and _validated_at(self.trainer) != self.trainer.global_step:
            self.trainer.validate(self.objective, self.data, verbose=False)
        return write_summary(self)


def train(config: DictConfig) -> float | None:
    """Train as configured, and tell how it went.

    Args:
        config: Composed from `conf/train.yaml`.

    Returns:
        The last validation loss, which is what a sweep minimises.
    """
    check_launch(config)
    with open_dict(config):
        config.paths.output_dir = HydraConfig.get().runtime.output_dir
    directory = Path(config.paths.output_dir)
    alone = only_run_in(directory) if is_first_process() else nullcontext()
    several = warnings_once(directory) if processes_wanted(config) > 1 else nullcontext()
    with alone, failure_told(directory), several:
        return train_in(directory, config)


def train_in(directory: Path, config: DictConfig) -> float | None:
    """Train in a directory that is settled, or go on there after the scheduler has taken the machine away.

    Raises:
        InputError: When another run is there.
    """
    config.resume = checkpoint_before_restart(directory) or config.resume
    check(config)

    from lmmodules.report import print_report
    from lmmodules.run_directory import write_configuration

    if config.resume is None and (directory / "checkpoints" / "last.ckpt").exists() and is_first_process():
        raise InputError(
            f"`paths.output_dir` must not hold another run, but `{directory}` does; use `resume={directory}` to go on "
            "with it, or another directory"
        )
    overrides = list(HydraConfig.get().overrides.task)
    match_tokenizer(config, overrides)
    run = assemble(config)
    if run.trainer.is_global_zero:
        for name, fact in run.data.describe().items():
            log.info(f"{name}: {fact}")
        write_configuration(run.directory, config, overrides)
    summary = run.fit()
    if run.trainer.is_global_zero:
        print_report(run, summary)
    run.trainer.strategy.barrier()  # gloo aborts a rank whose partner has left while it was still connected
    return summary.get("val_loss")


@contextmanager
def told_where_to_go_on(run: Run) -> Iterator[None]:
    """When a run is stopped from outside, say how to go on, and exit as a stopped process does.

    Lightning ends training at Ctrl-C and SIGTERM by itself, without a word and, at SIGTERM, as if all were done.

    Raises:
        SystemExit: With 143 after SIGTERM and 130 after Ctrl-C.
    """
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    code = 0
    try:
        yield
    except (SIGTERMException, KeyboardInterrupt):
        code = 143
    except SystemExit:  # Lightning's answer to a KeyboardInterrupt
        code = 130
    if run.trainer.received_sigterm:
        code = 143
    elif code == 0 and run.trainer.interrupted:
        code = 130
    if not code:
        return
    requeued = any(getattr(callback, "requeued", False) for callback in run.trainer.callbacks)  # type: ignore[attr-defined]
    if run.trainer.is_global_zero and not requeued:  # a job in the queue goes on by itself
        checkpoint = run.directory / "checkpoints" / "last.ckpt"
        remedy = f"go on with `resume={run.directory}`" if checkpoint.exists() else "no checkpoint had been written yet"
        log.warning(f"stopped at step {run.trainer.global_step} of {run.trainer.max_steps}: {remedy}")
    raise SystemExit(code)


def assemble(config: DictConfig) -> Run:
    """Build every part of a run and check that the parts fit.

    Args:
        config: Composed from `conf/train.yaml`, with `max_steps`.

    Returns:
        The run, ready for `fit`.

    Raises:
        InputError: When a part cannot be built or two do not fit.
    """
    check(config)
    import lightning as L

    from lmmodules.models.floating_point import flush_denormals

    flush_denormals()  # before torch starts its threads
    quiet_lightning()
    L.seed_everything(config.seed, verbose=False)
    weights = settle_model(config)
    objective_class: type[Objective] = get_class(config.objective._target_)
    objective_class.check_backbone(config.model.causal, chosen("model") or config.model._target_)

    data = build_data(config)
    if weights is not None:
        weights.check_vocabulary(data.tokenizer)
    match_vocabulary(config, data)
    check_strategy(config)  # once more, with a vocabulary and with what weights have settled
    match_objective(config, data)
    if config.resume is not None:
        match_checkpoint(config, data)
    len(data.train_dataloader())  # refuses a corpus that is smaller than a batch
    backbone = build_backbone(config)
    objective = build_objective(config, backbone)
    if weights is not None:
        weights.load_into(objective)
    try:
        objective.configure_optimizers()  # cheap before the first step, and it knows what it cannot take
    except (TypeError, ValueError) as error:
        raise InputError(f"`optimizer` was refused: {error}") from error
    if config.compile:
        backbone.compile()
    return Run(config, data, objective, build_trainer(config, data))


def build_data(config: DictConfig) -> DataModule:
    """The data module, prepared: tokenizer trained or loaded, tokens stored.

    Raises:
        InputError: When the data does not fit the objective or the model.
    """
    from lmmodules.batch import provides

    data: DataModule = instantiate(config.data, _convert_="all")
    objective_class: type[Objective] = get_class(config.objective._target_)
    if not provides(data.batch_type, objective_class.batch_type):
        raise InputError(
            f"`{objective_class.__name__}` needs a `{objective_class.batch_type.__name__}`, but the data yields a "
            f"`{data.batch_type.__name__}`; leave `transform=` and `data=` to the objective, which brings its own"
        )
    settings = config.objective
    if objective_class.contrast_option in settings:
        ranks = processes_wanted(config) if settings.get("gather_negatives") else 1
        objective_class.check_batch_size(data.batch_size * ranks, settings[objective_class.contrast_option])
    limit = config.model.get("max_length")
    if limit is not None and data.max_length > limit:
        raise InputError(
            f"`data.max_length` must not exceed `model.max_length` ({limit}), but is {data.max_length}; "
            f"use `data.max_length={limit}`"
        )
    return data.prepare()


def build_objective(config: DictConfig, backbone: Any) -> Objective:
    """The objective around a backbone."""
    objective: Objective = instantiate(
        config.objective,
        backbone=backbone,
        optimizer=instantiate(config.optimizer, _convert_="all"),
        parameter_groups=instantiate(config.parameter_groups, _convert_="all"),
        _convert_="all",
    )
    return objective


def build_trainer(config: DictConfig, data: DataModule) -> L.Trainer:
    """The trainer with its callbacks and loggers."""
    from lmmodules.callbacks import ConfigSnapshot, SaveOnTermination, WarmupDecay, WholeCheckpoints

    callbacks = [instantiate(node, _convert_="all") for node in config.callbacks.values() if node is not None]
    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    callbacks.append(ConfigSnapshot(network_node(plain["model"]), plain["objective"], data.tokenizer.to_json(), plain))
    callbacks.append(SaveOnTermination(Path(config.paths.output_dir) / "checkpoints"))
    loggers = [instantiate(node, _convert_="all") for node in (config.logger or {}).values()]
    interval = config.trainer.val_check_interval
    if interval is None:  # Lightning counts batches, a person counts steps
        interval = min(config.validate_every_steps, config.max_steps) * config.trainer.accumulate_grad_batches
    trainer: L.Trainer = instantiate(
        config.trainer,
        callbacks=callbacks,
        logger=loggers or False,
        plugins=[WholeCheckpoints(), *cluster_environments(config)],
        val_check_interval=interval,
        default_root_dir=config.paths.output_dir,
        _convert_="all",
    )
    for callback in callbacks:
        if isinstance(callback, WarmupDecay):
            callback.schedule.factor(0, callback.max_steps or config.max_steps)  # refuses a warmup that does not fit
    for logger in trainer.loggers:
        logger.log_hyperparams(plain)
    return trainer


def _validated_at(trainer: L.Trainer) -> int:
    """The step of the newest validation, as the log has it."""
    from lmmodules.callbacks import RankZeroLogging

    steps = [callback.validated_at for callback in trainer.callbacks if isinstance(callback, RankZeroLogging)]  # type: ignore[attr-defined]
    return max(steps, default=-1)


if __name__ == "__main__":
    main()
