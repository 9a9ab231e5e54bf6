"""Language-model papers as LightningModules, composed by Hydra.

Everything public is importable from here and is loaded when first used, so that `import lmmodules` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lmmodules.callbacks import RankZeroLogging as RankZeroLogging
    from lmmodules.callbacks import Throughput as Throughput
    from lmmodules.callbacks import TrainingProgress as TrainingProgress
    from lmmodules.callbacks import WarmupDecay as WarmupDecay
    from lmmodules.callbacks import read_metrics as read_metrics
    from lmmodules.checkpoint import load as load
    from lmmodules.checkpoint import load_tokenizer as load_tokenizer
    from lmmodules.composition import compose as compose
    from lmmodules.data import CorpusDataModule as CorpusDataModule
    from lmmodules.data import Tokenizer as Tokenizer
    from lmmodules.errors import InputError as InputError
    from lmmodules.models import Transformer as Transformer
    from lmmodules.objectives import CausalLM as CausalLM
    from lmmodules.objectives import MaskedLM as MaskedLM
    from lmmodules.objectives import Objective as Objective
    from lmmodules.optim import AdamWeightDecay as AdamWeightDecay
    from lmmodules.optim import ParameterGroups as ParameterGroups
    from lmmodules.parallel import reduce_losses as reduce_losses

_HOME = {
    "AdamWeightDecay": "lmmodules.optim",
    "CausalLM": "lmmodules.objectives",
    "CorpusDataModule": "lmmodules.data",
    "InputError": "lmmodules.errors",
    "MaskedLM": "lmmodules.objectives",
    "Objective": "lmmodules.objectives",
    "ParameterGroups": "lmmodules.optim",
    "RankZeroLogging": "lmmodules.callbacks",
    "Throughput": "lmmodules.callbacks",
    "Tokenizer": "lmmodules.data",
    "TrainingProgress": "lmmodules.callbacks",
    "Transformer": "lmmodules.models",
    "WarmupDecay": "lmmodules.callbacks",
    "compose": "lmmodules.composition",
    "load": "lmmodules.checkpoint",
    "load_tokenizer": "lmmodules.checkpoint",
    "read_metrics": "lmmodules.callbacks",
    "reduce_losses": "lmmodules.parallel",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lmmodules' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
