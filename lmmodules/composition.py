"""The command line's way of building a run, from Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, open_dict

from lmmodules.command import conf_directory, input_error
from lmmodules.errors import InputError
from lmmodules.fitting_parts import match_tokenizer
from lmmodules.train import Run, assemble


def compose(*overrides: str, directory: str | None = None) -> Run:
    """Build what `lmm-train` would build from the same overrides.

    Args:
        *overrides: As on the command line, for example `"experiment=start_here", "max_steps=100"`.
        directory: Where the run leaves what it makes; `None` makes a directory under `runs/`.

    Returns:
        The run: `config`, `data`, `objective`, `trainer`, and `fit()`.

    Raises:
        InputError: As the command would say it.
    """
    with wrong_input_raised():
        config = compose_config("train", *overrides)
        with open_dict(config):
            # Interpolations such as the time of day are settled once, not each time they are read.
            config.paths.output_dir = directory or config.paths.output_dir
        match_tokenizer(config, overrides)
        return assemble(config)


@contextmanager
def wrong_input_raised() -> Iterator[None]:
    """Raise as `InputError` what the command would have told in one sentence.

    Raises:
        InputError: With the sentence of the command.
    """
    try:
        yield
    except Exception as error:
        sentence = input_error(error)
        if sentence is None or isinstance(error, InputError):
            raise
        raise InputError(sentence) from error


def compose_config(name: str, *overrides: str) -> DictConfig:
    """The configuration that a command would be given.

    Args:
        name: Of the command's YAML, for example `"train"`.
        *overrides: As on the command line.
    """
    if GlobalHydra.instance().is_initialized():
        GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_directory())):
        return hydra.compose(config_name=name, overrides=list(overrides))
