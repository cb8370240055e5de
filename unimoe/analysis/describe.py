"""What a model is made of, in words: parts, experts, parameters, and the cost of a token of each modality."""

from collections.abc import Iterator
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from ..checkpoint.loading import load_model, read_config
from ..modality import Modality
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..moe.counting import TokenCost, count_parameters, count_per_token
from .stock import build_stock, count_stock, describe_stock


def open_model(source: str) -> Any:
    """Load a model of this package, or build one of transformers on the meta device.

    Args:
        source: Folder, or id on the Hub.

    Raises:
        CheckpointError: If it cannot be loaded; or, of transformers, has no stacked experts.
    """
    kind = str(read_config(source).get("model_type"))
    is_stock = not kind.startswith("unimoe") and kind in CONFIG_MAPPING_NAMES
    return build_stock(source) if is_stock else load_model(source)


def text_cost(model: Any) -> TokenCost | None:
    """Count what a token of text costs a model that `open_model` gave; None where a token alone has no cost."""
    if not isinstance(model, UniMoEForConditionalGeneration):
        return count_stock(model)[1]
    return None if _is_soft(model.config.text_config) else count_per_token(model)["text"]


def _is_soft(text: Any) -> bool:
    """Whether a sequence costs its slots, however long it is."""
    return bool(text.num_experts) and text.router_type == "soft"


def describe(model: Any) -> Iterator[tuple[str, str]]:
    """Yield the parts of a model that `open_model` gave, and what each is: the rows of `unimoe info`."""
    if getattr(model.config, "quantization_config", None) is not None:
        yield "quantised", "in part; bytes are given as if all were floats"
    if not isinstance(model, UniMoEForConditionalGeneration):
        yield from describe_stock(model)
        return
    config, text = model.config, model.config.text_config
    kind = f"{text.num_hidden_layers} layers, hidden size {text.hidden_size}, vocabulary {text.vocab_size:,}"
    yield "language model", kind
    if text.num_experts:
        yield from describe_sparse(text)
    else:
        yield "feed-forward", f"dense, width {text.intermediate_size}"
    for key in config.encoder_keys:
        encoder, connector = config.encoder_config(key), config.connector_config(key)
        yield f"{key} encoder", f"{encoder.tower_config.model_type}, {encoder.num_tokens} tokens -> {connector.type}"
    for key, tokens in config.num_tokens.items():
        yield f"tokens of one {key}", f"{tokens} x id {getattr(config, f'{key}_token_id')}"
    counts = count_parameters(model)
    yield "parameters", f"{counts['total']:,}, of which {counts['active']:,} active for a token"
    if _is_soft(text):
        return
    for key, cost in count_per_token(model).items():
        yield f"one {key} token", str(cost)


def describe_sparse(text: Any) -> Iterator[tuple[str, str]]:
    """Yield what the sparse layers of a language model are made of."""
    yield "sparse layers", ", ".join(str(index) for index in range(text.num_hidden_layers) if text.is_sparse(index))
    families = {
        "mlp": "",
        "lora": f", as changes of rank {text.expert_rank} to one feed-forward",
        "latent": f", latent of size {text.expert_latent_size} in {text.expert_latent_groups} group(s)",
    }
    widths = " and ".join(map(str, sorted(set(text.expert_widths()))))
    nulls = f", {text.num_null_experts} null" if text.num_null_experts else ""
    shared = ""
    if text.shared_expert_intermediate_size:
        width, weight = text.shared_expert_intermediate_size, text.shared_expert_weighting
        shared = f", {text.num_shared_experts} shared of width {width} (weight: {weight})"
    merged = ""
    if text.expert_aliases is not None:
        merged = f", merged to {', '.join(str(max(aliases) + 1) for aliases in text.expert_aliases)}"
    yield "experts", f"{text.num_experts} of width {widths}{merged}{families[text.expert_type]}{nulls}{shared}"
    mass = f" until {text.router_top_p:g} of the probability" if text.router_type == "top_p" else ""
    groups = f", best {text.topk_group} of {text.n_group} groups" if text.n_group > 1 else ""
    weights = ", weights by near ties" if text.combine_weights == "near_tie" else ""
    choice = f"{text.router_type}, top {text.num_experts_per_tok}"
    yield "routing", f"{choice}{mass}{groups}{weights}, modality mode {text.modality_routing}"
    if text.has_closed_experts:
        for modality in Modality:
            yield f"experts of {modality.key}", ", ".join(map(str, text.permitted_experts(modality)))
    for task, own in text.reserved_tasks.items():
        yield f"experts of the task {task}", ", ".join(map(str, own))


__all__ = ["describe", "open_model", "text_cost"]
