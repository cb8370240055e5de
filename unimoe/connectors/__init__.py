"""Connectors bring encoder features into the language model's width (transformers: `multi_modal_projector`)."""

from torch import nn

from ..configuration_parts import UniMoEConnectorConfig
from .mlp import MLPConnector
from .qformer import QFormerConnector

CONNECTORS: dict[str, type[nn.Module]] = {"mlp": MLPConnector, "qformer": QFormerConnector}


def build_connector(config: UniMoEConnectorConfig, input_size: int, output_size: int) -> nn.Module:
    """Build the connector that the configuration names, from width `input_size` to `output_size`."""
    return CONNECTORS[config.type](config, input_size, output_size)


__all__ = ["CONNECTORS", "MLPConnector", "QFormerConnector", "build_connector"]
