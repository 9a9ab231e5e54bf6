"""The network of a run: what its configuration leaves open, and the weights it starts from.

`model.weights` says where a run begins, and nothing about the network: a checkpoint holds all weights itself and needs
no other place to be loaded or continued.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from lmmodules.command import missing_value
from lmmodules.errors import InputError

if TYPE_CHECKING:
    from lmmodules.starting_weights import StartingWeights


def settle_model(config: DictConfig) -> StartingWeights | None:
    """Find out what the configuration of the network leaves to others, before anything is compared with it.

    Args:
        config: Of a run; values of `config.model` that are null are filled in.

    Returns:
        The weights to start from; `None` for random ones, and for a run that goes on.

    Raises:
        InputError: When the weights or the wrapped model cannot be found.
    """
    if is_wrapped(config):
        _settle_wrapped(config)
        return None
    if OmegaConf.is_missing(config.model, "weights"):
        raise InputError(missing_value("model.weights"))
    source = config.model.get("weights")
    if source is None:
        return None
    if config.resume is not None:
        _fill(config.model, _network_of(config.resume))
        return None
    from lmmodules.starting_weights import StartingWeights

    weights = StartingWeights(str(source))
    _fill(config.model, weights.arguments)
    if config.model.get("num_layers") is None:
        raise InputError(
            f"`model.weights={source}` must be of a `Transformer` for `model=pretrained`, but is of a "
            f"`{type(weights.backbone).__name__}`"
        )
    return weights


def build_backbone(config: DictConfig, *, weights: bool = True) -> Any:
    """The network of a run. A wrapped one leaves its configuration there, so that a checkpoint can do without it.

    Args:
        config: Of a run, settled.
        weights: Whether a wrapped model is to load its weights.
    """
    if not is_wrapped(config):
        return instantiate(network_node(config.model), _convert_="all")
    backbone = instantiate(config.model, weights=weights and config.model.weights, _convert_="all")
    with open_dict(config):
        config.model.config = backbone.fields
    return backbone


def network_node(model: Mapping[str, Any]) -> dict[str, Any]:
    """The node that makes a network again: where its weights came from is no part of it.

    Args:
        model: The node of a configuration.
    """
    plain = OmegaConf.to_container(model, resolve=True) if OmegaConf.is_config(model) else dict(model)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items() if name != "weights"}


def is_wrapped(config: DictConfig) -> bool:
    """Whether the network is one of transformers, as it is."""
    return str(config.model._target_).endswith(".HuggingFaceBackbone")


def _settle_wrapped(config: DictConfig) -> None:
    from lmmodules.models.hugging_face_fields import is_causal, longest, read_fields

    model = config.model
    if "position" in model:
        raise InputError(
            "`position` must be left to a model that `model=hugging_face` wraps, which has its own; use `position=null`"
        )
    if not isinstance(model.weights, bool):
        raise InputError(f"`model.weights` must be true or false with `model=hugging_face`, but is {model.weights}")
    if config.resume is not None:
        model.config = _network_of(config.resume).get("config")
    if OmegaConf.is_missing(model, "name"):
        raise InputError(missing_value("model.name"))
    fields = read_fields(model.name) if model.config is None else OmegaConf.to_container(model.config)
    assert isinstance(fields, dict)
    model.causal = is_causal(cast("dict[str, Any]", fields), model.causal)
    if model.vocab_size is None and (model.weights or model.config is not None):
        model.vocab_size = fields["vocab_size"]
    if config.data.get("document_mask"):
        raise InputError(
            "`data.document_mask` must be false with `model=hugging_face`, whose documents would see each other; "
            "use `data.document_mask=false`"
        )
    limit = longest(cast("dict[str, Any]", fields))
    if limit is not None and config.data.max_length > limit:
        raise InputError(
            f"`data.max_length` must not exceed what `model.name={model.name}` has positions for ({limit}), but is "
            f"{config.data.max_length}; use `data.max_length={limit}`"
        )


def _fill(model: DictConfig, arguments: Mapping[str, Any]) -> None:
    """Fill in what is null: everything in a network that has no sizes of its own, or else its vocabulary."""
    names = arguments.keys() if model.get("num_layers") is None else {"vocab_size"} & arguments.keys()
    with open_dict(model):
        for name in names:
            if model.get(name) is None:
                model[name] = arguments[name]


def _network_of(resume: str) -> dict[str, Any]:
    """The node of the network that a run to go on with began with."""
    from lmmodules.checkpoint import read_snapshot
    from lmmodules.fitting_parts import resume_file

    node: dict[str, Any] = read_snapshot(resume_file(resume))["model"]
    return node
