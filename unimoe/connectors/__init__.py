"""Connectors bring encoder features into the language model's width (transformers: `multi_modal_projector`)."""

from torch import nn

from ..configuration.connectors import UniMoEConnectorConfig
from .blip2_qformer import Blip2QFormerConnector
from .mlp import MLPConnector
from .pixel_shuffle import PixelShuffleConnector
from .pooling import PoolingConnector
from .qformer import QFormerConnector
from .queries import QueryConnector
from .query_decoder import QueryDecoderConnector

CONNECTORS: dict[str, type[nn.Module]] = {
    "mlp": MLPConnector,
    "pooling": PoolingConnector,
    "pixel_shuffle": PixelShuffleConnector,
    "qformer": QFormerConnector,
    "blip2_qformer": Blip2QFormerConnector,
    "query_decoder": QueryDecoderConnector,
}


def build_connector(config: UniMoEConnectorConfig, *, input_size: int, output_size: int, grid: list[int]) -> nn.Module:
    """Build the connector that the configuration names.

    Args:
        config: Its type and fields.
        input_size: Width of the encoder's features.
        output_size: Width of the language model.
        grid: Rows and columns in which the features of one unit lie, row by row.
    """
    return CONNECTORS[config.type](config, input_size, output_size, grid)


__all__ = [
    "CONNECTORS",
    "Blip2QFormerConnector",
    "MLPConnector",
    "PixelShuffleConnector",
    "PoolingConnector",
    "QFormerConnector",
    "QueryConnector",
    "QueryDecoderConnector",
    "build_connector",
]
