"""BLIP-2 Q-Former connector: learned queries pass BLIP-2's own Querying Transformer, which reads the features."""

import torch
from torch import Tensor
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel

from ..configuration.connectors import UniMoEConnectorConfig
from .queries import QueryConnector, output_projection


class Blip2QFormerConnector(QueryConnector):
    """Queries -> BLIP-2's Q-Former with cross-attention to the features -> one linear layer or two.

    Li et al. 2023, BLIP-2 (arXiv 2301.12597, section 3.1), without the text branch: post-normalisation, and
    cross-attention in the layers 0, f, 2f, ... for a `cross_attention_frequency` f. Uni-MoE (arXiv 2405.11273) has 50
    queries for 30 s of sound. The values are those of transformers' `Blip2QFormerModel`. Departure: queries start
    random, not at zero.
    """

    def __init__(self, config: UniMoEConnectorConfig, input_size: int, output_size: int, grid: list[int]) -> None:
        width = config.qformer_config.hidden_size
        super().__init__(config.num_queries or 0, width)
        # In the dtype of the model around it, not that of the folder which the Q-Former came from.
        self.qformer = Blip2QFormerModel._from_config(config.qformer_config, dtype=torch.get_default_dtype())
        self.output_proj = output_projection(config.num_output_layers, width, output_size)

    def read(self, queries: Tensor, features: Tensor) -> Tensor:
        """Let queries (N, num_queries, W) read features (N, L, C) and return embeddings (N, num_queries, D)."""
        states = self.qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state
        return self.output_proj(states)
