"""What is said to a person whose input is wrong, and the import of optional packages."""

from __future__ import annotations

import importlib
from types import ModuleType


class InputError(ValueError):
    """Something the user gave is wrong.

    The text is one sentence: the name in backticks, the rule, the value, and the override that mends it.
    The commands print it on standard error without a traceback and exit with code 2.
    """


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or say which extra of lmmodules brings it.

    Args:
        module: Dotted name of the module, for example `"pyarrow.parquet"`.
        extra: Name of the extra in `pyproject.toml`, for example `"parquet"`.
        purpose: What needs it, for example ``"reading `corpus.parquet`"``.

    Raises:
        InputError: When the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(f"{purpose} needs `{package}`: pip install 'lmmodules[{extra}]'") from error
