"""The sparse feed-forward of a decoder layer: router -> experts (+ shared experts) -> weighted sum."""

import torch
from torch import Tensor, nn

from ..configuration_unimoe import UniMoETextConfig
from .experts import AnyExperts, GatedMLP, ReservedExperts, build_experts, outputs_of_choices
from .further_losses import expert_overlap
from .routers import RouterOutput, RoutingContext, build_router
from .routers.gradients import dense_gradient
from .soft import SoftMoeBlock


class SparseMoeBlock(nn.Module):
    """Mixture of experts over the tokens of a batch.

    A token's output depends on that token (its modality and id) alone, unless the router is one of those that choose
    among tokens.
    """

    shared_expert: GatedMLP | None
    shared_expert_gate: nn.Linear | None
    alias_index: Tensor | None

    def __init__(self, config: UniMoETextConfig, aliases: list[int] | None = None) -> None:
        super().__init__()
        self.config, self.aliases = config, aliases
        self.router = build_router(config)
        merged = config.num_unreserved_experts if aliases is None else max(aliases) + 1
        self.experts = build_experts(config, merged, may_skip=config.may_skip_experts)
        index = None if aliases is None else self.find_alias_index()
        self.register_buffer("alias_index", index, persistent=index is None)  # see `Router`
        self.reserved_experts = ReservedExperts(config)
        width = config.num_shared_experts * config.shared_expert_intermediate_size
        gated = config.shared_expert_weighting == "sigmoid"
        self.shared_expert = GatedMLP(config, width) if width else None
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False) if gated else None

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> Tensor:
        """Map hidden states (B, S, D), of whose B*S tokens the context tells, to (B, S, D)."""
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])  # (T, D)
        routing: RouterOutput = self.router(tokens, context)
        output = self.routed_output(tokens, routing, context)
        if self.shared_expert is not None:
            output = output + self.shared_output(tokens, routing.shared_weights)
        return output.view_as(hidden_states)

    def routed_output(self, tokens: Tensor, routing: RouterOutput, context: RoutingContext) -> Tensor:
        """Sum of the chosen experts, (T, D)."""
        index, weights = self.expert_index(routing.top_k_index), routing.top_k_weights
        if not self.reserved_experts:
            return self.experts(tokens, index, weights)
        output = self.experts(tokens, index.clamp(max=self.config.num_unreserved_experts), weights)
        return output + self.reserved_experts(tokens, index, weights)

    def find_alias_index(self) -> Tensor:
        """Say which of E' merged experts answers for each of the router's, and that E' stands for E, (E+1,)."""
        assert self.aliases is not None
        return torch.tensor([*self.aliases, max(self.aliases) + 1])

    def expert_index(self, top_k_index: Tensor) -> Tensor:
        """Find the experts of the stack that answer for those that the router chose, (T, K)."""
        return top_k_index if self.alias_index is None else self.alias_index[top_k_index]

    def shared_output(self, tokens: Tensor, weights: Tensor | None) -> Tensor:
        """Sum up the shared experts (T, D), weighed as `shared_expert_weighting` says."""
        assert self.shared_expert is not None
        if weights is not None:  # (T, n)
            return self.shared_expert(tokens, channel_weights=weights.repeat_interleave(self.shared_width, dim=-1))
        output = self.shared_expert(tokens)
        return output if self.shared_expert_gate is None else torch.sigmoid(self.shared_expert_gate(tokens)) * output

    @property
    def expert_stacks(self) -> list[AnyExperts]:
        """All modules that hold routed experts, in the order of their indices."""
        return [self.experts, *self.reserved_experts.stacks()]

    @property
    def shared_width(self) -> int:
        """Width of one shared expert."""
        return self.config.shared_expert_intermediate_size


class ExpertOverlap(nn.Module):
    """How alike the chosen experts of a token answer; a module, so that models can record what it returns."""

    def forward(self, outputs: Tensor, top_k_index: Tensor, num_experts: int, attention_mask: Tensor | None) -> Tensor:
        """Return the scalar of `expert_overlap` for outputs (T, K, D) of experts (T, K)."""
        return expert_overlap(outputs, top_k_index, num_experts=num_experts, attention_mask=attention_mask)


class TrainedMoeBlock(SparseMoeBlock):
    """A block whose training may ask more of its experts: a dense gradient, or how alike they answer.

    A stage decides on its losses after the model is built, so what they ask for is read when the block runs.
    """

    def __init__(self, config: UniMoETextConfig, aliases: list[int] | None = None) -> None:
        super().__init__(config, aliases)
        self.is_dense = config.router_gradient == "dense"
        self.overlap = ExpertOverlap()

    def routed_output(self, tokens: Tensor, routing: RouterOutput, context: RoutingContext) -> Tensor:
        """Sum of the chosen experts, (T, D); in training, also what else is asked of them."""
        output = super().routed_output(tokens, routing, context)
        if not self.training:
            return output
        if self.is_dense:
            probs = routing.record.router_probs[:, : self.router.num_experts] * self.config.routed_scaling_factor
            if self.alias_index is not None:  # merged experts have the probabilities of all that they answer for
                merged = probs.new_zeros(len(probs), self.experts.num_experts)
                probs = merged.index_add(1, self.alias_index[:-1], probs)
            output = output + dense_gradient(probs, tokens, self.experts.expert_output)
        if (self.config.router_losses or {}).get("expert_overlap"):
            outputs = outputs_of_choices(self.experts, tokens, self.expert_index(routing.top_k_index))
            self.overlap(outputs, routing.top_k_index, self.router.num_experts, context.attention_mask)
        return output


def build_block(config: UniMoETextConfig, aliases: list[int] | None = None) -> SparseMoeBlock | SoftMoeBlock:
    """Make the sparse feed-forward that `config` describes for a layer with these `aliases`."""
    if config.router_type == "soft":
        return SoftMoeBlock(config)
    return (SparseMoeBlock if config.router_type == "hash" else TrainedMoeBlock)(config, aliases)


__all__ = ["ExpertOverlap", "SparseMoeBlock", "TrainedMoeBlock", "build_block"]
