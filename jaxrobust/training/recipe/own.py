"""Networks that are not of the catalogue, and what a run records of them.

A run directory only names code: nothing that it names is run unless the caller asks
for it, by handing the network over, by naming it, or by saying that it is trusted.
"""

from typing import Any, NamedTuple

from jaxrobust.networks import (
    GIVEN,
    ModelConfig,
    Network,
    as_network,
    network_of,
    require_network,
)
from jaxrobust.references import Reference, resolve

__all__ = ["CodeWarning", "Own", "handed_over", "network_for", "own_network"]


class CodeWarning(UserWarning):
    """The file of a network is not what it was when the run began."""


class Own(NamedTuple):
    """A network that is not of the catalogue.

    Attributes:
        network: which has been seen to fit the data.
        record: what a run says of it beside its configuration: `sha256` of the file
            in which it stands, None where none is known, and `arrays`, type and shape
            of each of its arrays by name.
    """

    network: Network
    record: dict[str, Any]


def handed_over(
    model: ModelConfig, network: Any
) -> tuple[ModelConfig, Reference | None]:
    """What a caller who is about to train has named or handed over.

    Args:
        model: of the configuration.
        network: in its place: a value, or its name as text; None for none.

    Returns:
        The configuration that a run records, and what `own_network` takes.

    Raises:
        ValueError: for a name of nothing, or for a run whose network was handed over
            when it began, and is not now.
    """
    if network is None and model.is_known:
        return model, None
    if network is not None and not isinstance(network, str):
        return ModelConfig(name=GIVEN), Reference(GIVEN, network, None)
    if network is not None:
        model = ModelConfig(name=network)
        if model.is_known:
            return model, None
    if model.name == GIVEN:
        raise ValueError(
            "`network` must be given again for a run whose network was handed over "
            "from Python, got none; hand over the same one (network=..., or --model)."
        )
    return model, resolve(model.name, what="model")


def own_network(
    source: Reference | None, image_shape: tuple[int, ...], num_classes: int
) -> Own | None:
    """The network for these data that was handed over; None for none.

    Raises:
        TypeError: for what is no network.
        ValueError: for one that does not fit the data.
    """
    if source is None:
        return None
    network = as_network(source.value, num_classes)
    arrays = require_network(network, image_shape, num_classes)
    return Own(network, {"sha256": source.sha256, "arrays": arrays})


def network_for(model: ModelConfig, num_classes: int, own: Own | None) -> Network:
    """The network of a run: the caller's own, or that of the catalogue."""
    return network_of(model, num_classes) if own is None else own.network
