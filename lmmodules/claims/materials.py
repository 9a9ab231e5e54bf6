"""What some claims need and nobody may ship: each lies where an environment variable says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

MATERIALS: dict[str, str] = {
    "LMM_REVIEWS": "a table of film-review sentences with the columns sentence and label, see docs/fine_tuning.md",
    "LMM_MINILM": "the folder of MiniLM, a trained encoder, see docs/fine_tuning.md",
    "LMM_WORDNET": "a directory of WordNet 3.x, see docs/papers/cline.md",
    "LMM_LAMA": "a directory of LAMA's relations, see docs/papers/p_tuning.md",
    "LMM_SMOLLM2": "SmolLM2-135M-Instruct, a folder or a GGUF file, see docs/running.md",
    "LMM_MATH_COURSES": "the course questions of Drori et al., see docs/papers/program_synthesis.md",
}
"""What each is and where it is told how to get it, by the environment variable that holds its path.

A run names it as `${oc.env:LMM_REVIEWS}`, so that what is stored of the run holds no path of a machine.
"""


def material(name: str) -> str:
    """A path as an override holds it, for example `data.path=` followed by it.

    Args:
        name: One of `MATERIALS`.
    """
    assert name in MATERIALS
    return f"${{oc.env:{name}}}"


def missing_materials(needs: Sequence[str]) -> str | None:
    """Say what is missing, or `None` if nothing is.

    Args:
        needs: Names out of `MATERIALS`.
    """
    for name in needs:
        path = os.environ.get(name)
        if not path:
            return f"needs {MATERIALS[name]}; set `{name}` to where it is"
        if not Path(path).exists():
            return f"needs {MATERIALS[name]}, but `{name}` names `{path}`, which does not exist"
    return None


def without_paths(text: str, needs: Sequence[str]) -> str:
    """A text with the names of materials in place of where they lie on this machine.

    Args:
        text: For example what a run told of its data.
        needs: Names out of `MATERIALS`.
    """
    for name in needs:
        if path := os.environ.get(name):
            text = text.replace(path, f"${name}")
    return text
