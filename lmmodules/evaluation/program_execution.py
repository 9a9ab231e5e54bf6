"""Running many programs, each in a sandbox of its own."""

from __future__ import annotations

from collections.abc import Sequence

from lmmodules.errors import check_whole_number
from lmmodules.evaluation.protection import chosen
from lmmodules.evaluation.sandbox import Execution, Limits, Sandbox

__all__ = ["Execution", "Limits", "run_programs"]

DEFAULT_LIMITS = Limits()


def run_programs(
    programs: Sequence[str], limits: Limits = DEFAULT_LIMITS, workers: int = 2, *, protection: str | None = None
) -> list[Execution]:
    """Run programs in sandboxes, several at a time.

    Args:
        programs: Python sources.
        limits: What each may use.
        workers: How many run at a time.
        protection: One of `protection.PROTECTIONS`; `None` takes the strongest and refuses to run without isolation.

    Returns:
        How each ran, in their order.

    Raises:
        InputError: When programs cannot be isolated here, or there is no worker.
    """
    check_whole_number("workers", workers, least=1, remedy="evaluation.workers=2")
    return Sandbox.of(limits, chosen(protection)).run_all(programs, workers)
