"""What the papers claim, and whether it holds here: one file per paper, each with its `CLAIMS`."""

from __future__ import annotations

import importlib
import pkgutil

from lmmodules.claims.base import SCALES, Claim, Measurement
from lmmodules.claims.rules import Below, NotAbove
from lmmodules.errors import InputError

__all__ = ["SCALES", "Below", "Claim", "Measurement", "NotAbove", "all_claims", "find_claims"]

_FRAME = {"base", "launched", "materials", "pages", "results", "rules"}


def all_claims() -> list[Claim]:
    """Every claim, by paper: a file beside this one is a paper, and its `CLAIMS` are its claims."""
    papers = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _FRAME)
    return [claim for paper in papers for claim in importlib.import_module(f"{__name__}.{paper}").CLAIMS]


def find_claims(paper: str | None = None, name: str | None = None) -> list[Claim]:
    """The claims that are asked for.

    Args:
        paper: Stem of a paper; `None` for all.
        name: Of a claim; `None` for all of the paper.

    Raises:
        InputError: When there is no such paper or claim; the sentence lists what there is.
    """
    claims = all_claims()
    papers = list(dict.fromkeys(claim.paper for claim in claims))
    if paper is not None and paper not in papers:
        raise InputError(f"`paper` must be one of {', '.join(papers)}, but is `{paper}`; use `paper={papers[0]}`")
    claims = [claim for claim in claims if paper in (None, claim.paper)]
    names = [claim.name for claim in claims]
    if name is not None and name not in names:
        raise InputError(f"`claim` must be one of {', '.join(names)}, but is `{name}`; use `claim={names[0]}`")
    return [claim for claim in claims if name in (None, claim.name)]
