"""Query-decoder connector: learned queries take the place of words in a Whisper decoder that reads the features."""

import torch
from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from ..configuration.connectors import UniMoEConnectorConfig
from .queries import QueryConnector, output_projection


class QueryDecoderConnector(QueryConnector):
    """Queries -> Whisper's decoder with cross-attention to its encoder's features -> one linear layer or two.

    Uni-MoE (arXiv 2405.11273) has 50 queries for 30 s of speech, Uni-MoE-2.0-Omni (arXiv 2511.12609) 200. The values
    are those of transformers' `WhisperDecoder` given the queries as `inputs_embeds`; its word embeddings, which nobody
    reads, are left out. Departure: queries start random, not at zero.
    """

    def __init__(self, config: UniMoEConnectorConfig, input_size: int, output_size: int, grid: list[int]) -> None:
        super().__init__(config.num_queries or 0, config.decoder_config.d_model)
        # In the dtype of the model around it, not that of the folder which the decoder came from.
        self.decoder = WhisperDecoder._from_config(config.decoder_config, dtype=torch.get_default_dtype())
        del self.decoder.embed_tokens
        # Left to the decoder's layers if it is True: as an argument it would make the cross-attention causal too.
        self.masking = {} if config.causal else {"is_causal": False}
        self.output_proj = output_projection(config.num_output_layers, config.decoder_config.d_model, output_size)

    def read(self, queries: Tensor, features: Tensor) -> Tensor:
        """Let queries (N, num_queries, C) read features (N, L, C) and return embeddings (N, num_queries, D)."""
        states = self.decoder(
            inputs_embeds=queries, encoder_hidden_states=features, use_cache=False, **self.masking
        ).last_hidden_state
        return self.output_proj(states)
