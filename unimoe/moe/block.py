"""The sparse feed-forward of a decoder layer: router -> experts (+ shared expert) -> weighted sum."""

from torch import Tensor, nn

from ..configuration_unimoe import UniMoETextConfig
from .experts import GatedMLP, stacked_experts
from .router import RoutingContext, TopKRouter


class SparseMoeBlock(nn.Module):
    """Mixture of experts over the tokens of a batch; a token's output depends on that token (and its modality)
    alone.
    """

    shared_expert: GatedMLP | None

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__()
        self.router = TopKRouter(config)
        self.experts = stacked_experts(config)
        width = config.shared_expert_intermediate_size
        self.shared_expert = GatedMLP(config, width) if width else None

    def forward(self, hidden_states: Tensor, modality_ids: Tensor) -> Tensor:
        """Map hidden states (B, S, D) of tokens with modality ids (B, S) to (B, S, D)."""
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])  # (T, D)
        context = RoutingContext(modality_ids.reshape(-1))
        _, top_k_weights, top_k_index, _ = self.router(tokens, context)
        output = self.experts(tokens, top_k_index, top_k_weights).view_as(hidden_states)
        if self.shared_expert is not None:
            output = output + self.shared_expert(hidden_states)
        return output
