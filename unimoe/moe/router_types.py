"""Routers beyond top-k: noisy, nucleus (top-p), hierarchical, hash, and experts that choose their tokens.

Shapes as in `router`: T tokens, D hidden size, E experts, N null experts, K experts per token, G groups.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from ..configuration_unimoe import UniMoETextConfig
from ..modality import Modality
from .router import Router, RoutingContext, SparseMixerRouter, TopKRouter, of_modality, permitted_targets
from .router_gradients import probability_of_choice
from .selection import expert_choice, smallest_prefix


class NoisyTopKRouter(TopKRouter):
    """Top-k with learned Gaussian noise on the logits in training (Shazeer et al. 2017, arXiv 1701.06538, eq. 3-5)."""

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__(config)
        self.noise_weight = nn.Parameter(torch.zeros(config.num_router_targets, config.hidden_size))

    def perturb(self, logits: Tensor, prepared: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Router.perturb`."""
        if not self.training:
            return logits, None
        deviation = F.softplus(F.linear(prepared, self.noise_weight.to(prepared.dtype)))  # (T, E+N)
        noisy = logits + torch.randn_like(deviation) * deviation
        return noisy, probability_of_choice(logits, noisy, deviation, self.top_k)


class TopPRouter(Router):
    """The smallest set of targets whose probabilities reach `router_top_p` (arXiv 2403.07652, eq. 3-4).

    Null experts are targets like others (Uni-MoE-2.0, arXiv 2511.12609). Of equal probabilities the lower index counts
    as the larger. A token has at least `min_experts_per_tok` targets and at most K.
    """

    def choose(self, logits: Tensor, scores: Tensor, context: RoutingContext) -> tuple[Tensor, Tensor]:
        """See `Router.choose`."""
        ordered, targets = scores.sort(dim=-1, descending=True, stable=True)
        size = smallest_prefix(ordered, self.config.router_top_p).clamp(min=self.config.min_experts_per_tok)  # (T,)
        targets = targets[:, : self.top_k]
        within = torch.arange(self.top_k, device=scores.device) < size[:, None]
        return targets, within & ~logits.gather(-1, targets).isneginf()


class HierarchicalRouter(TopKRouter):
    """Two softmaxes: over groups, and over the experts of each group; an expert's probability is their product."""

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__(config)
        rows = (len(Modality), config.n_group) if self.separate else (config.n_group,)
        self.group_weight = nn.Parameter(torch.empty(*rows, config.hidden_size))

    def logits(self, hidden_states: Tensor, context: RoutingContext) -> Tensor:
        """Logits (T, E+n) whose softmax over the experts is p(group) p(expert | group)."""
        experts, shared = super().logits(hidden_states, context).split([self.num_experts, self.num_weighed], dim=-1)
        weight = self.group_weight.to(hidden_states.dtype)
        if self.separate:
            groups = of_modality(torch.einsum("td,mgd->tmg", hidden_states, weight), context.modality_ids)
        else:
            groups = F.linear(hidden_states, weight)  # (T, G)
        inside = experts.unflatten(-1, (self.config.n_group, -1)).log_softmax(dim=-1)  # (T, G, E/G)
        return torch.cat([(groups[..., None] + inside).flatten(-2), shared], dim=-1)


class HashRouter(TopKRouter):
    """One expert for each vocabulary entry, drawn once (Roller et al. 2021, arXiv 2106.04426); nothing is learned.

    All placeholder tokens of a modality have one id, and so one expert.
    """

    table: Tensor

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__(config)
        del self.weight
        self.register_buffer("table", torch.zeros(config.vocab_size, dtype=torch.int32))

    def logits(self, hidden_states: Tensor, context: RoutingContext) -> Tensor:
        """0 for the expert of the token's id among those open to its modality, else -inf, (T, E).

        Raises:
            ValueError: If the ids of the tokens are not known.
        """
        if context.token_ids is None:
            raise ValueError("router_type='hash' routes by vocabulary ids. Pass input_ids, not inputs_embeds alone.")
        tokens = len(hidden_states)
        is_open = torch.ones(tokens, self.num_experts, dtype=torch.bool, device=hidden_states.device)
        if self.permitted is not None:
            is_open = self.permitted[context.modality_ids]
        # Loading in bf16 makes all of a router float32, the table too; its numbers are exact there.
        place = self.table[context.token_ids].long() % is_open.sum(dim=-1)  # (T,)
        chosen = is_open & (is_open.cumsum(dim=-1) == place[:, None] + 1)
        return hidden_states.new_zeros(tokens, self.num_experts).masked_fill(~chosen, float("-inf"))


class ExpertChoiceRouter(Router):
    """Each expert takes the tokens that score highest with it (Zhou et al. 2022, arXiv 2202.09368, section 3.2).

    An expert takes as many tokens as it would have if those it is open to were spread evenly, K for each, rounded up.
    What a token gets depends on all tokens of the batch, so this router cannot generate.
    """

    def choose(self, logits: Tensor, scores: Tensor, context: RoutingContext) -> tuple[Tensor, Tensor]:
        """See `Router.choose`; K is E here."""
        is_open = ~logits.isneginf()
        if context.real is not None:
            is_open = is_open & context.real[:, None]
        targets = torch.arange(self.num_experts, device=scores.device).expand_as(scores)
        return targets, expert_choice(scores, is_open, experts_per_token=self.top_k)


TABLE_NUMBERS = 2**24
"""Numbers that a hash table is drawn from: integers that float32 has."""

ROUTERS: dict[str, type[Router]] = {
    "top_k": TopKRouter,
    "noisy_top_k": NoisyTopKRouter,
    "top_p": TopPRouter,
    "hierarchical": HierarchicalRouter,
    "hash": HashRouter,
    "expert_choice": ExpertChoiceRouter,
}


def build_router(config: UniMoETextConfig) -> Router:
    """Make the router that a configuration describes."""
    if config.router_gradient == "sparsemixer":
        return SparseMixerRouter(config)
    return ROUTERS[config.router_type](config)


def router_weights(model: nn.Module) -> list[Tensor]:
    """Weights of the targets of every router that has any, (E+N, D) each, or (M, E+N, D) of separate routers."""
    routers = [module for module in model.modules() if isinstance(module, Router)]
    return [router.weight[..., : router.nothing, :] for router in routers if not isinstance(router, HashRouter)]


def init_router(router: Router, std: float) -> None:
    """Draw a router's weights from N(0, std); noise, biases and projections start where they change nothing."""
    for name, parameter in router.named_parameters(recurse=False):
        if name in ("noise_weight", "modality_bias"):
            init.zeros_(parameter)
        elif name == "projection":
            init.copy_(parameter, torch.eye(parameter.shape[-1]).expand_as(parameter))
        else:
            init.normal_(parameter, mean=0.0, std=std)
    if router.permitted is not None:
        init.copy_(router.permitted, permitted_targets(router.config))
    if router.balance_bias is not None:
        init.zeros_(router.balance_bias)
    if isinstance(router, HashRouter):
        init.copy_(router.table, torch.randint(TABLE_NUMBERS, tuple(router.table.shape)))
