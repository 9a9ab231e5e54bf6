"""Which parameters are decayed, and at what share of the learning rate each layer learns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from lmmodules.errors import InputError

NoDecayRule = Callable[[str, nn.Parameter, nn.Module], bool]
"""Says of a parameter, by its dotted name, itself and the module that holds it, whether it is left undecayed."""


def norm_and_bias(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    """Leave norms, biases, vectors and soft prompts undecayed.

    A norm is told by its type, or by a class name that ends in `Norm`, and not by the name of the attribute, which
    would miss an `ln_1`. Relative-position tables are embeddings, and ALiBi slopes are vectors.
    """
    leaf = name.rpartition(".")[2]
    vector = parameter.ndim < 2 or leaf == "bias" or leaf.endswith("_bias")
    return _is_norm(owner) or vector or leaf.startswith("prompt")


def bert_names(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    """Leave undecayed what google-research/bert does: names that contain `LayerNorm`, `layer_norm` or `bias`.

    All norms are called `LayerNorm` there. Those that have other names here, as `mlp_norm`, are told by their type.
    """
    return _is_norm(owner) or re.search("LayerNorm|layer_norm|bias", name) is not None


def none(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    """Leave nothing undecayed, norms and biases included, as fairseq did for RoBERTa."""
    return False


NO_DECAY_RULES: Mapping[str, NoDecayRule] = MappingProxyType(
    {"norm_and_bias": norm_and_bias, "bert_names": bert_names, "none": none}
)
"""Rules by the names they have in a configuration."""


class GroupRow(NamedTuple):
    """One line of the table of parameter groups."""

    name: str
    tensors: int
    parameters: int
    weight_decay: float | None
    """0 or, for the optimizer's own, `None`."""
    lr_factor: float


class ParameterGroups:
    """Divide the trainable parameters of a module into groups for an optimizer.

    Every trainable parameter is in exactly one group; a tied one belongs to where it is registered first. A decayed
    group has no `weight_decay` of its own, so that the optimizer's default holds; the others have 0. Groups are made
    from modules and names, so they must be made before anything flattens the parameters (FSDP2 does not).

    Args:
        no_decay: What is left undecayed: `norm_and_bias`, `bert_names`, `none`, or a rule of one's own.
        decay_embeddings: Whether weights of `nn.Embedding` are decayed. A tied output projection goes with them.
        layer_decay: Factor of the learning rate from each layer to the one below it, in (0, 1]. Of L layers, the i-th
            from 0 learns at `layer_decay ** (L - i)` times the rate of what comes after them, and what comes before
            them, the embeddings, at `layer_decay ** (L + 1)`. Layers are the members of a `nn.ModuleList` that is
            called `blocks`.
        hidden_matrices: Give the weights of `nn.Linear` inside `blocks` groups of their own, marked
            `hidden_matrices=True`. `Muon` needs it.

    Raises:
        InputError: If `no_decay` is no known rule or `layer_decay` is out of range.

    Source:
        Layer-wise rates: Clark et al. 2020, "ELECTRA", appendix B.
    """

    def __init__(
        self,
        *,
        no_decay: str | NoDecayRule = "norm_and_bias",
        decay_embeddings: bool = True,
        layer_decay: float = 1.0,
        hidden_matrices: bool = False,
    ) -> None:
        if isinstance(no_decay, str) and no_decay not in NO_DECAY_RULES:
            raise InputError(
                f"`no_decay` must be one of {', '.join(NO_DECAY_RULES)}, but is {no_decay}; "
                "use `parameter_groups.no_decay=norm_and_bias`"
            )
        if not 0.0 < layer_decay <= 1.0:
            raise InputError(
                f"`layer_decay` must lie in (0, 1], but is {layer_decay}; use `parameter_groups.layer_decay=0.9`"
            )
        self.no_decay = no_decay
        self.decay_embeddings = decay_embeddings
        self.layer_decay = layer_decay
        self.hidden_matrices = hidden_matrices

    def __call__(self, module: nn.Module) -> list[dict[str, Any]]:
        """Make the groups.

        Args:
            module: Usually the whole objective.

        Returns:
            Groups in the order in which their first parameters are registered. Each has `params`, a unique `name`,
            `lr_factor` (see `build_optimizer`), `weight_decay` unless decayed, and the mark `hidden_matrices` if asked
            for.

        Raises:
            InputError: If nothing is trainable, or `layer_decay` or `hidden_matrices` is asked of a module that has
                no `blocks`.
        """
        rule = NO_DECAY_RULES[self.no_decay] if isinstance(self.no_decay, str) else self.no_decay
        layers = _Layers(module)
        if not layers.stacks and (self.layer_decay < 1.0 or self.hidden_matrices):
            option = "layer_decay" if self.layer_decay < 1.0 else "hidden_matrices"
            raise InputError(
                f"`{option}` needs a module with layers in a `nn.ModuleList` called `blocks`, but "
                f"`{type(module).__name__}` has none; use `~parameter_groups.{option}`"
            )

        groups: dict[str, dict[str, Any]] = {}
        for name, parameter, owner in _trainable(module):
            decayed = not rule(name, parameter, owner)
            if isinstance(owner, nn.Embedding) and not self.decay_embeddings:
                decayed = False
            words = ["decayed" if decayed else "not decayed"]
            group: dict[str, Any] = {} if decayed else {"weight_decay": 0.0}
            if self.hidden_matrices:
                group["hidden_matrices"] = isinstance(owner, nn.Linear) and parameter.ndim == 2 and layers.holds(name)
                words[:0] = ["hidden matrices"] if group["hidden_matrices"] else []
            group["lr_factor"] = 1.0
            if self.layer_decay < 1.0:
                place, height = layers.locate(name, owner)
                words[:0] = [place] if place else []
                group["lr_factor"] = self.layer_decay**height
            group_name = " ".join(words)
            groups.setdefault(group_name, {"params": [], "name": group_name, **group})["params"].append(parameter)
        if not groups:
            raise InputError(
                f"`{type(module).__name__}` must have a parameter that requires a gradient, but all are frozen; "
                "leave some of them trainable"
            )
        return list(groups.values())

    def rows(self, module: nn.Module) -> list[GroupRow]:
        """The groups of a module as the lines of a table.

        Args:
            module: See `__call__`.
        """
        return [
            GroupRow(
                name=group["name"],
                tensors=len(group["params"]),
                parameters=sum(parameter.numel() for parameter in group["params"]),
                weight_decay=group.get("weight_decay"),
                lr_factor=group["lr_factor"],
            )
            for group in self(module)
        ]


def _is_norm(owner: nn.Module) -> bool:
    return isinstance(owner, nn.LayerNorm | nn.RMSNorm) or type(owner).__name__.endswith("Norm")


def _trainable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Every trainable parameter once, with its dotted name and the module that holds it."""
    seen: set[nn.Parameter] = set()
    for prefix, owner in module.named_modules():
        for leaf, parameter in owner.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield leaf, parameter, owner


class _Layers:
    """Where the parameters of a module stand, from below its layers to above them."""

    def __init__(self, module: nn.Module) -> None:
        # Name of the module that holds `blocks`, with a dot, and what it has registered before them.
        self.stacks: dict[str, int] = {}
        self._below: dict[str, set[str]] = {}
        for path, owner in module.named_modules():
            blocks = dict(owner.named_children()).get("blocks")
            if isinstance(blocks, nn.ModuleList):
                prefix = f"{path}." if path else ""
                children = [name for name, _ in owner.named_children()]
                self.stacks[prefix] = len(blocks)
                self._below[prefix] = set(children[: children.index("blocks")])

    def holds(self, name: str) -> bool:
        """Whether a parameter is in a layer."""
        return any(name.startswith(f"{prefix}blocks.") for prefix in self.stacks)

    def locate(self, name: str, owner: nn.Module) -> tuple[str, int]:
        """The name of a parameter's layer, empty above the layers, and how many layers are above it, plus one."""
        for prefix, layers in self.stacks.items():
            if not name.startswith(prefix):
                continue
            child, _, rest = name.removeprefix(prefix).partition(".")
            shown = prefix if len(self.stacks) > 1 else ""
            if child == "blocks":
                index = int(rest.partition(".")[0])
                return f"{shown}blocks.{index}", layers - index
            if child in self._below[prefix] or isinstance(owner, nn.Embedding):
                return f"{shown}embeddings", layers + 1
        return "", 0
