"""The configuration of sparse layers: experts, routers, the modality axis and router losses, each checked."""

from typing import Any, Literal, cast, get_args

from ..modality import Modality
from .base import CheckedConfig, require
from .checks import checked
from .moe_checks import TASK_PREFIX, check_moe

ExpertType = Literal["mlp", "lora", "latent"]
RouterType = Literal["top_k", "noisy_top_k", "top_p", "hierarchical", "hash", "expert_choice", "soft"]
ScoringFunction = Literal["softmax", "sigmoid"]
CombineWeights = Literal["scores", "near_tie"]
RouterGradient = Literal["plain", "straight_through", "sparsemixer", "dense"]
CapacityPriority = Literal["probability", "position"]
SharedExpertWeighting = Literal["one", "sigmoid", "router"]
ModalityRouting = Literal["shared", "bias", "separate", "isolated", "semi_isolated"]
BalanceScope = Literal["layer", "modality", "sequence"]
RouterLoss = Literal[
    "importance",
    "load",
    "entropy",
    "entropy_global",
    "orthogonality",
    "gram",
    "score_variance",
    "expert_overlap",
]

# Why a router cannot be used in `generate`.
_OBSTACLES = {
    "expert_choice": "each expert chooses among all tokens of the batch, later ones and those of other samples too",
    "soft": "every slot mixes all tokens of a sequence, later ones too",
}


@checked
class MoEConfig(CheckedConfig):
    """What a sparse layer is made of. The names are those of transformers' models where they have one.

    E experts, K experts per token, D hidden size, N null experts, G groups of experts.

    Experts:
        num_experts: E; 0 is the dense decoder.
        num_experts_per_tok: K; for `top_p` the most that a token may have.
        moe_intermediate_size: Width of an expert. None: `intermediate_size`.
        expert_type: `mlp`: gated feed-forwards. `lora`: one frozen feed-forward of the layer and a low-rank change of
            it for each expert (MixLoRA, arXiv 2404.15159). `latent`: projections into and out of a latent space,
            shared by a group of experts, and small maps of each expert inside it (MoLAE, arXiv 2503.23100).
        expert_rank, expert_lora_alpha: Of `lora`; the change is scaled by alpha / rank.
        expert_latent_size: Of `latent`: dimensions of the latent space. None: `moe_intermediate_size`.
        expert_latent_groups: Of `latent`: groups of neighbouring experts that share projections; divides E.
        expert_aliases: Of merged experts of type `mlp`: for each sparse layer, in order, which expert of the layer's
            smaller stack answers for each of the E that the router chooses from. None: each answers for itself.
        num_shared_experts: Experts that every token passes, if they have a width.
        shared_expert_intermediate_size: Width of each shared expert. 0: none.
        shared_expert_weighting: `one`: added as they are (DeepSeek). `sigmoid`: times the sigmoid of a linear map of
            the token (Qwen2-MoE). `router`: one softmax weighs the chosen and the shared experts (Uni-MoE-2.0,
            arXiv 2511.12609).
        num_null_experts: N; router targets that compute nothing.
        null_experts_keep_mass: Whether a null keeps its share of the weights, which attenuates the output
            (Uni-MoE-2.0), or the weights are renormalised over the real experts.

    Which layers are sparse (all of them, unless one of these says otherwise):
        moe_layers: Indices of the sparse layers.
        decoder_sparse_step: Layers n with (n + 1) divisible by this are sparse (Qwen2-MoE).
        mlp_only_layers: Layers that are dense all the same.

    Routing:
        router_type: `top_k`, `noisy_top_k` (Shazeer et al. 2017, arXiv 1701.06538, eq. 3-5), `top_p` (Huang et al.
            2024, arXiv 2403.07652), `hierarchical` (a group first, then an expert in it), `hash` (Roller et al. 2021,
            arXiv 2106.04426), `expert_choice` (Zhou et al. 2022, arXiv 2202.09368), `soft` (Puigcerver et al. 2023,
            arXiv 2308.00951).
        scoring_func: What makes scores of router logits: `softmax`, or `sigmoid` for each expert apart (DeepSeek-V3).
        norm_topk_prob: Renormalise the weights of the chosen experts to a sum of 1. None: if K > 1 and the tokens
            choose; the one weight of K = 1 would be 1, and the router would get no gradient from the language loss.
        combine_weights: What weighs the chosen experts: their `scores`, or `near_tie`: each choice's softmax over the
            targets alone that come within twice `sparsemixer_epsilon` of its logit and were not chosen before it,
            renormalised. For checkpoints of Uni-MoE-2.0 (arXiv 2511.12609), DCMoE and UniMoE-Audio, whose code weighs
            so. Not for a new model: with random normal logits of 5 targets, 96 to 97 % of the tokens get exactly 1 / K
            for each of their K experts, and through such weights the router learns nothing.
        routed_scaling_factor: Factor of the combine weights.
        balance_bias: Add a bias to the scores for the choice of experts, not for their weights, and move it against
            uneven loads during training (auxiliary-loss-free, Wang et al. 2024, arXiv 2408.15664).
        balance_bias_update_rate: Its step after each optimiser step.
        n_group, topk_group: Experts stand in this many groups; a token may use the best `topk_group` of them, by the
            sum of the two best scores in each (DeepSeek-V3, arXiv 2412.19437, section 2.1.2). None: all groups.
        router_top_p: For `top_p`: the smallest set of experts whose probabilities sum to at least this.
        min_experts_per_tok: For `top_p`: the least experts of a token.
        slots_per_expert: For `soft`.
        capacity_factor: Most tokens of an expert, as a multiple of what it would have if all tokens spread evenly over
            the experts open to them (K times the tokens over E). None: no limit.
        capacity_priority: Which tokens keep their places beyond the limit: those whose largest weight is largest
            (batch-prioritised, Riquelme et al. 2021, arXiv 2106.05974), or the first ones.
        router_jitter_noise: In training the router's input is multiplied by U(1 - noise, 1 + noise).
        router_gradient: How the router learns; evaluation is the same for all. `plain`: through the weights of the
            chosen experts. `straight_through`: as if the weights were their scores before renormalisation.
            `sparsemixer`: sampled experts and a mid-point estimate (GRIN, arXiv 2409.12136). `dense`: through what
            every expert would have answered (DenseMixer).
        sparsemixer_epsilon: `sparsemixer` samples experts among those within twice this relative gap of the largest
            logit, and `near_tie` weighs by them. Uni-MoE-2.0 calls it `router_jitter_noise`.

    The modality axis:
        modality_routing: `shared`: one router, blind to the modality. `bias`: a learned bias for each modality and
            expert, added to the router logits (of `hierarchical`, to those of the product). `separate`: a router for
            each modality over one pool. `isolated`: a token sees its modality's group of experts alone.
            `semi_isolated`: its group and the experts of no group.
        expert_groups: For the two last, modality key -> expert indices. Groups are disjoint, or the same. A modality
            without an entry has text's group, video that of images. A token with fewer experts than K uses all.
        expert_group_intermediate_sizes: Modality key -> width of the experts of its group, where it is not
            `moe_intermediate_size` (ERNIE-4.5-VL's small vision experts).
        reserved_experts: Modality key -> indices of experts, the last ones of all, that its tokens alone may choose,
            beside those that they may choose anyway. They have weights of their own, a stack and router rows for each
            modality, so that they can train while all else stays (`unimoe.surgery.extend`). Video without an entry
            has that of images. A key `task_NAME` names a task: its experts are open to all tokens while the task is
            on (`unimoe.moe.tasks`), and else to none. For `mlp` experts behind `top_k` or `top_p`.
        router_modality_projection: The router sees the token through a linear map of its modality, at first the
            identity (Uni-MoE with 8 experts).

    Losses (see `unimoe.moe.losses`):
        router_aux_loss_coef: Coefficient of the balance loss.
        router_aux_loss_scope: Over which tokens expert use is balanced: all tokens of a `layer`, or those of each
            `modality` apart, within its permitted experts, or those of each `sequence` (DeepSeek-V3). None: `modality`
            if routing is isolated, else `layer`.
        router_aux_loss_global_batch: Take the load over the batches of all processes (Qiu et al. 2025,
            arXiv 2501.11873).
        router_z_loss_coef: Coefficient of the router z-loss (Zoph et al. 2022, ST-MoE, eq. 5).
        router_losses: Name of a further router loss -> its coefficient.
        router_entropy_min_experts: The loss `entropy_global` ends once the tokens of a modality spread as widely as
            evenly over this many experts (LIMoE's threshold). None: it does not end.
        output_router_logits: Whether forward returns router logits and adds the router losses. None: when labels are
            given.
    """

    active_task = cast("str | None", None)
    """Name of the task that is on. Not a field, and never saved: a model that is loaded has no task on."""

    hidden_size: int = 512
    intermediate_size: int = 1536
    num_hidden_layers: int = 8

    num_experts: int = 0
    num_experts_per_tok: int = 2
    moe_intermediate_size: int | None = None
    expert_type: ExpertType = "mlp"
    expert_rank: int = 8
    expert_lora_alpha: float | int = 16
    expert_latent_size: int | None = None
    expert_latent_groups: int = 1
    expert_aliases: list[list[int]] | None = None
    num_shared_experts: int = 1
    shared_expert_intermediate_size: int = 0
    shared_expert_weighting: SharedExpertWeighting = "one"
    num_null_experts: int = 0
    null_experts_keep_mass: bool = True

    moe_layers: list[int] | None = None
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] | None = None

    router_type: RouterType = "top_k"
    scoring_func: ScoringFunction = "softmax"
    norm_topk_prob: bool | None = None
    combine_weights: CombineWeights = "scores"
    routed_scaling_factor: float | int = 1.0
    balance_bias: bool = False
    balance_bias_update_rate: float = 0.001
    n_group: int = 1
    topk_group: int | None = None
    router_top_p: float | int = 0.4
    min_experts_per_tok: int = 1
    slots_per_expert: int = 1
    capacity_factor: float | int | None = None
    capacity_priority: CapacityPriority = "probability"
    router_jitter_noise: float | int = 0.0
    router_gradient: RouterGradient = "plain"
    sparsemixer_epsilon: float = 0.01

    modality_routing: ModalityRouting = "shared"
    expert_groups: dict[str, list[int]] | None = None
    expert_group_intermediate_sizes: dict[str, int] | None = None
    reserved_experts: dict[str, list[int]] | None = None
    router_modality_projection: bool = False

    router_aux_loss_coef: float | int = 0.01
    router_aux_loss_scope: BalanceScope | None = None
    router_aux_loss_global_batch: bool = False
    router_z_loss_coef: float | int = 0.001
    router_losses: dict[str, float | int] | None = None
    router_entropy_min_experts: float | int | None = None
    output_router_logits: bool | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.moe_intermediate_size is None:
            self.moe_intermediate_size = self.intermediate_size
        if self.expert_latent_size is None:
            self.expert_latent_size = self.moe_intermediate_size
        self.topk_group = self.topk_group or self.n_group
        if self.norm_topk_prob is None:
            self.norm_topk_prob = self.num_experts_per_tok > 1 and self.router_type not in ("hash", "expert_choice")
        if self.router_aux_loss_scope is None:
            self.router_aux_loss_scope = "modality" if self.is_isolated else "layer"
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Lay out what is saved: all but the task that is on."""
        return {name: value for name, value in super().to_dict().items() if name != "active_task"}

    @property
    def is_isolated(self) -> bool:
        """Whether a token may use some experts only, by its modality."""
        return self.modality_routing in ("isolated", "semi_isolated")

    @property
    def has_closed_experts(self) -> bool:
        """Whether some experts are closed to some modality: routing is isolated, or experts are reserved."""
        return self.is_isolated or bool(self.reserved_experts)

    @property
    def reserved_in_order(self) -> list[tuple[str, list[int]]]:
        """Keys of modalities and tasks, and the experts reserved for them, by index."""
        return sorted((self.reserved_experts or {}).items(), key=lambda item: item[1])

    @property
    def reserved_tasks(self) -> dict[str, list[int]]:
        """Tasks by name, and the experts reserved for them, by index."""
        found = self.reserved_in_order
        return {key.removeprefix(TASK_PREFIX): own for key, own in found if key.startswith(TASK_PREFIX)}

    @property
    def num_unreserved_experts(self) -> int:
        """Experts that are not reserved for a modality or a task: the first ones."""
        return self.num_experts - sum(map(len, (self.reserved_experts or {}).values()))

    @property
    def num_router_targets(self) -> int:
        """What a router chooses from: experts, then null experts."""
        return self.num_experts + self.num_null_experts

    @property
    def may_skip_experts(self) -> bool:
        """Whether a token can get fewer experts than K, so that the index "no expert" stands among its K."""
        some_closed = self.num_null_experts > 0 or self.has_closed_experts or self.capacity_factor is not None
        return some_closed or self.router_type in ("top_p", "expert_choice")

    @property
    def generation_obstacle(self) -> str | None:
        """Why a token's experts do not depend on that token alone, so that it cannot be generated one by one."""
        if self.num_experts and self.capacity_factor is not None:
            return "capacity_factor lets the tokens of a batch crowd each other out; set it to None for generation"
        return _OBSTACLES.get(self.router_type) if self.num_experts else None

    def is_sparse(self, layer_index: int) -> bool:
        """Whether the feed-forward of this decoder layer is a mixture of experts."""
        if self.num_experts == 0:
            return False
        if self.moe_layers is not None:
            return layer_index in self.moe_layers
        return layer_index not in (self.mlp_only_layers or []) and (layer_index + 1) % self.decoder_sparse_step == 0

    def aliases(self, layer_index: int) -> list[int] | None:
        """Which expert of the stack of a sparse layer answers for each of E; None where each does for itself."""
        if self.expert_aliases is None:
            return None
        return self.expert_aliases[sum(map(self.is_sparse, range(layer_index)))]

    def expert_group(self, modality: Modality) -> list[int] | None:
        """Return the group of experts of a modality; None if it has none, or groups play no part."""
        groups = self.expert_groups or {}
        return groups.get(modality.key, groups.get(modality.encoder_key, groups.get("text")))

    def permitted_experts(self, modality: Modality) -> list[int]:
        """Experts that tokens of this modality may be routed to, in ascending order."""
        grouped = {expert for group in (self.expert_groups or {}).values() for expert in group}
        common = set(range(self.num_unreserved_experts)) - grouped
        reserved = self.reserved_experts or {}
        own = reserved.get(modality.key, reserved.get(modality.encoder_key, []))
        of_task = self.reserved_tasks.get(self.active_task or "", [])
        return sorted({*common, *(self.expert_group(modality) or ()), *own, *of_task})

    @property
    def open_experts(self) -> list[int]:
        """Experts that tokens of some modality may be routed to: all but those of tasks that are off."""
        return sorted({expert for modality in Modality for expert in self.permitted_experts(modality)})

    def expert_widths(self) -> list[int]:
        """Width of each expert that is not reserved; reserved ones have `moe_intermediate_size`."""
        widths = [self.moe_intermediate_size or 0] * self.num_unreserved_experts
        for key, width in (self.expert_group_intermediate_sizes or {}).items():
            for expert in (self.expert_groups or {}).get(key, []):
                widths[expert] = width
        return widths

    def validate_architecture(self) -> None:
        """Check the fields against each other.

        Raises:
            ValueError: Naming the fields that do not fit, and both values.
        """
        if self.num_experts == 0:
            return
        for holds, problem in check_moe(self, router_losses=get_args(RouterLoss)):
            require(holds, problem)


__all__ = ["BalanceScope", "MoEConfig", "ModalityRouting", "RouterGradient", "RouterType"]
