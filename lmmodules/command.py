"""What the commands have in common: where the configuration lies, and how a wrong input is told."""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lmmodules.errors import InputError

NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EEXIST}
"""Errors of the operating system that mean: not here."""

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SUBMITIT_LOCAL_GLOBALID")
"""Where torchrun, Lightning, Slurm and submitit say which of its processes this is."""

PATIENCE = 5.0
"""Seconds in which the first process tells what is wrong, before another does."""

PLUGINS = {
    "submitit_slurm": ("hydra-submitit-launcher", "sweep"),
    "submitit_local": ("hydra-submitit-launcher", "sweep"),
    "joblib": ("hydra-joblib-launcher", "sweep"),
    "optuna": ("hydra-optuna-sweeper", "optuna"),
}
"""Options of Hydra's own groups that plugins bring: the plugin, and the extra that brings it."""


def conf_directory() -> Path:
    """The configuration folder: inside the package where a wheel put it, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def run_command(task: Callable[[DictConfig], Any], config_name: str, texts: Sequence[str] = ()) -> None:
    """Run a command under Hydra and end the process as a command should.

    Exit codes: 0 done; 1 a run that failed, with its traceback; 2 an input that is wrong, with one sentence on
    standard error. `LMM_TRACEBACK=1` shows the traceback of a wrong input as well.

    Args:
        task: Takes the composed configuration.
        config_name: The YAML in the configuration folder that it starts from.
        texts: Keys whose values are text, taken from the command line letter by letter. Hydra alone would read signs
            such as `(`, `,` and `$` in it, and take blanks off its ends.
    """
    name = f"lmm-{config_name}"
    sys.argv[1:] = [quoted_text(argument, texts) for argument in sys.argv[1:]]

    def guarded(config: DictConfig) -> Any:
        with told_in_one_sentence(name), no_empty_directory(Path(HydraConfig.get().runtime.output_dir)):
            return task(config)

    # Hydra would print and exit by itself; with this it lets the exception through.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    functools.update_wrapper(guarded, task)
    with told_in_one_sentence(name):
        hydra.main(version_base="1.3", config_path=str(conf_directory()), config_name=config_name)(guarded)()


def quoted_text(argument: str, texts: Sequence[str]) -> str:
    """An argument of the command line, its value within Hydra's quotes if it is a text.

    Args:
        argument: For example `prompt=def read(`.
        texts: Keys of texts.
    """
    key, equals, text = argument.partition("=")
    if not equals or key not in texts:
        return argument
    # A backslash means itself, except before what begins a reference to another value, and before the quote.
    text = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + "\\${", text)
    text = re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return f"{key}='{text}'"


@contextmanager
def told_in_one_sentence(command: str) -> Iterator[None]:
    """End the process with code 2 and one sentence when an input turns out to be wrong.

    Args:
        command: Name that stands before the sentence.
    """
    try:
        yield
    except Exception as error:
        sentence = input_error(error)
        if sentence is None or os.environ.get("LMM_TRACEBACK") == "1":
            raise
        if "SUBMITIT_EXECUTOR" in os.environ:  # a trial of a sweep, whose launcher waits for the error
            raise
        origin = ""
        if not is_first_process():
            if "TORCHELASTIC_RUN_ID" not in os.environ:  # the first found the same
                sys.exit(2)
            # As soon as one has ended, torchrun ends the others: the first must not be overtaken, and if it found the
            # same, this one does not wake up.
            time.sleep(PATIENCE)
            origin = f"rank {own_rank()}: "
        print(f"{command}: {origin}{sentence}", file=sys.stderr, flush=True)
        sys.exit(2)


def is_first_process() -> bool:
    """Whether this process is the first of its run, or the only one, whoever started it."""
    return own_rank() == "0"


def own_rank() -> str:
    """Number of this process among those of its run, by the environment; 0 when it is the only one."""
    return next((value for name in RANK_VARIABLES if (value := os.environ.get(name, "0")) != "0"), "0")


@contextmanager
def no_empty_directory(directory: Path) -> Iterator[None]:
    """Take away the directory that Hydra made for a run, if an error leaves it empty.

    Args:
        directory: The directory of the run. Empty folders that hold it go as well, up to the working directory.
    """
    try:
        yield
    except BaseException:
        here = Path.cwd()
        for folder in (directory, *directory.parents):
            ours = folder == directory or folder.is_relative_to(here)
            if folder == here or not ours or not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()
        raise


def quiet_lightning() -> None:
    """Let Lightning warn, but not advertise."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
    # Data is read from a memory map: workers would cost more than they bring until a transform is expensive.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    # Said by ourselves, where it matters: a run is refused in the directory of another, and may hold nothing out.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    # Having Slurm's commands does not mean that this run is to go through them.
    warnings.filterwarnings("ignore", message=".*`srun` command is available on your system but is not used")


def input_error(error: BaseException | None) -> str | None:
    """The sentence to tell, if an error means that an input was wrong; `None` if a run failed.

    Args:
        error: What was raised. Its causes are searched too, since Hydra wraps what constructors raise.
    """
    refused: InstantiationException | None = None
    while error is not None:
        if isinstance(error, InputError):
            return str(error)
        if isinstance(error, MissingMandatoryValue):
            return missing_value(str(error.full_key or error.key))
        if isinstance(error, InstantiationException):
            refused = error
        elif isinstance(error, OverrideParseException):
            if not re.match(r"[^=]+=", error.override):
                return f"`{error.override}` must have the form key=value"
            return f"`{error.override}` has signs that must be quoted, within quotes of the shell: 'key=\"value\"'"
        elif isinstance(error, HydraException | OmegaConfBaseException):
            return _one_sentence(str(error))
        elif isinstance(error, ValueError) and "Config group override must be" in str(error):  # Hydra's `model=3`
            return "a group such as `model` takes the name of one of its options, but was given a number"
        elif type(error).__name__ == "MisconfigurationException":  # Lightning's, which is not imported for this
            return _in_one_line(str(error))
        elif refused is not None and isinstance(error, ModuleNotFoundError):
            return f"{_refused(refused, error)}; install what it needs, for example with pip install 'lmmodules[wandb]'"
        elif refused is not None and isinstance(error, TypeError | ValueError):
            return _refused(refused, error)
        elif isinstance(error, OSError) and error.errno in NO_PLACE:
            return f"`{error.filename2 or error.filename}` cannot be written ({error.strerror}); use another directory"
        error = error.__cause__
    return None


def missing_value(key: str) -> str:
    """The sentence for a key that has no default."""
    if key == "max_steps":
        return (
            "`max_steps` is missing: say how many optimizer steps to train, for example `max_steps=1000`, "
            "or take a recipe that says it, for example `experiment=start_here`"
        )
    key = key.removeprefix("data.") if key.startswith("data.tokenizer.") else key  # as one types it
    return f"`{key}` is missing: give it on the command line, as `{key}=...`"


def _one_sentence(text: str) -> str:
    """Hydra's own errors in our form."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    missing = re.match(r"(?:In '.*': )?Could not find '(.*)/(.*)'", lines[0])
    # An option of ours that builds on one of a plugin, or that one itself.
    plugged = re.match(r"In '(.*)': Could not load '.*/(.*)'", lines[0]) or re.match(r".*find '(.*/(.*))'", lines[0])
    if plugged and plugged[2] in PLUGINS:
        package, extra = PLUGINS[plugged[2]]
        group, _, option = plugged[1].rpartition("/")
        return f"`{group}={option}` needs `{package}`: pip install 'lmmodules[{extra}]'"
    if missing and len(lines) > 1 and lines[1].startswith("Available options"):
        options = list(itertools.takewhile(lambda line: not line.startswith("Config search path"), lines[2:]))
        return f"`{missing[1]}` has no option `{missing[2]}`; there are {', '.join(options)}"
    unknown = re.match(r"Could not override '(.*)'", lines[0])
    if unknown:
        return f"`{unknown[1]}` is not an option here; add `--cfg job` to the command to see all there are"
    return " ".join(line for line in lines if not line.startswith(("full_key", "object_type")))


def _refused(refusal: InstantiationException, cause: BaseException) -> str:
    """What a constructor that is not ours says of the values it was given."""
    key = re.search(r"full_key: (\S+)", str(refusal))
    return f"`{key[1]}` was refused: {_in_one_line(str(cause))}" if key else _in_one_line(str(cause))


def _in_one_line(text: str) -> str:
    return " ".join(text.split())
