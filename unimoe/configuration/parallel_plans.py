"""How transformers shards the language model over processes: names of its modules -> styles of transformers 5.23.

A plan names what a model of this configuration has, and nothing else. What no plan names is whole in every process:
routers, norms, LoRA and latent experts, encoders and connectors.
"""

from collections.abc import Sequence
from typing import Any

Plan = dict[str, str]

_ATTENTION = "layers.*.self_attn"
_MLP = "layers.*.mlp"
PIPELINE_PLAN: dict[str, Sequence[list[str]]] = {
    "embed_tokens": (["input_ids"], ["inputs_embeds"]),
    "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
    "norm": (["hidden_states"], ["hidden_states"]),
}
"""Inputs and outputs of the parts of the decoder that pipeline parallelism deals out."""


def tensor_parallel_plan(config: Any) -> Plan:
    """Every process computes some heads and some channels of every expert."""
    # A norm over all heads needs all of them: their projections are gathered before it (OLMoE).
    gathered = config.qk_norm == "projection"
    plan = {f"{_ATTENTION}.{name}_proj": "colwise_gather_output" if gathered else "colwise" for name in "qkv"}
    plan[f"{_ATTENTION}.o_proj"] = "rowwise_split_input" if gathered else "rowwise"
    if config.qk_norm == "head":
        plan |= {f"{_ATTENTION}.{name}_norm": "replicated_with_grad_allreduce" for name in "qk"}
    if not all(map(config.is_sparse, range(config.num_hidden_layers))):
        plan |= _feed_forward(_MLP)
    # Channels weighed one by one by the router's softmax stay together.
    if _is_sparse(config) and config.shared_expert_intermediate_size and config.shared_expert_weighting != "router":
        plan |= _feed_forward(f"{_MLP}.shared_expert")
    for experts in _expert_stacks(config):
        plan |= {
            f"{experts}.gate_up_proj": "packed_colwise",
            f"{experts}.down_proj": "rowwise",
            experts: "moe_tp_experts",
        }
    return plan


def expert_parallel_plan(config: Any) -> Plan:
    """Every process holds some experts whole; merged ones, whose number differs by layer, all of them."""
    plan: Plan = {}
    for experts in _expert_stacks(config) if config.expert_aliases is None else ():
        plan |= {
            f"{experts}.gate_up_proj": "grouped_gemm",
            f"{experts}.down_proj": "grouped_gemm",
            experts: "ep_dispatch_experts",
        }
    return plan


def _feed_forward(name: str) -> Plan:
    return {f"{name}.gate_proj": "colwise", f"{name}.up_proj": "colwise", f"{name}.down_proj": "rowwise"}


def _is_sparse(config: Any) -> bool:
    return any(map(config.is_sparse, range(config.num_hidden_layers)))


def _expert_stacks(config: Any) -> list[str]:
    """Modules of stacked experts that are called as a whole: a dense router gradient reads single experts."""
    called_whole = config.router_gradient != "dense" and not (config.router_losses or {}).get("expert_overlap")
    if not (_is_sparse(config) and config.expert_type == "mlp" and called_whole):
        return []
    return [f"{_MLP}.experts.banks.*" if len(set(config.expert_widths())) > 1 else f"{_MLP}.experts"]


__all__ = ["PIPELINE_PLAN", "expert_parallel_plan", "tensor_parallel_plan"]
