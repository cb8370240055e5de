"""Which experts the tokens of each modality went to, layer by layer, and a heat map of it.

L sparse layers, M modalities, E experts; the targets E' are the experts, then the null experts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from unimoe.modality import Modality
from unimoe.moe.statistics import count_routing

from .generate import encode_batch, make_batches
from .progress import track
from .tasks import Sample


def is_sparse(model: Any) -> bool:
    """Whether the model has routers."""
    return getattr(model.config.get_text_config(), "num_experts", 0) > 0


def count_prompt_routing(
    model: Any, processor: Any, samples: Sequence[Sample], *, batch_size: int, description: str, console: Console
) -> Tensor | None:
    """Count the routing of all prompt tokens (media and text) of the rows.

    Returns:
        Assignments (L, M, E'), int64; None for a dense model.
    """
    if not is_sparse(model) or not samples:
        return None
    counts = []
    for batch in track(make_batches(samples, batch_size), description, console=console):
        inputs = encode_batch(processor, batch, device=model.device, dtype=model.dtype)
        with torch.inference_mode():
            output = model(**inputs, output_router_logits=True, logits_to_keep=1, use_cache=False)
        modalities = inputs.get("mm_token_type_ids", torch.zeros_like(inputs["input_ids"]))
        counts.append(count_routing(output.expert_mask, modalities, inputs["attention_mask"]).cpu())
    return torch.stack(counts).sum(dim=0)


def summarise_routing(counts: Tensor, *, num_experts: int, layers: Sequence[int]) -> dict[str, Any]:
    """Shares, entropy and experts used, for each modality that occurred.

    Args:
        counts: Assignments (L, M, E').
        num_experts: Targets from this one on are null experts; they have a share, but count as no expert used.
        layers: Indices of the L sparse layers.

    Returns:
        `layers`, `num_experts`, and under `modalities` by key, with one entry for each layer: `counts` and `share` of
        the targets, `entropy` (nats) over the experts, `experts_used` = exp(entropy), between 1 and E, `null_share`;
        and `mean_experts_used` over the layers.
    """
    modalities = {}
    for modality in Modality:
        chosen = counts[:, modality].double()  # (L, E')
        if not chosen.sum():
            continue
        share = chosen / chosen.sum(dim=-1, keepdim=True).clamp(min=1)
        entropy = _entropy(chosen[:, :num_experts])  # (L,)
        modalities[modality.key] = {
            "counts": counts[:, modality].tolist(),
            "share": share.tolist(),
            "entropy": entropy.tolist(),
            "experts_used": entropy.exp().tolist(),
            "mean_experts_used": float(entropy.exp().mean()),
            "null_share": share[:, num_experts:].sum(dim=-1).tolist(),
        }
    return {"layers": list(layers), "num_experts": num_experts, "modalities": modalities}


def _entropy(counts: Tensor) -> Tensor:
    """Entropy in nats of counts over the last dimension; 0 log 0 = 0."""
    return torch.special.entr(counts / counts.sum(dim=-1, keepdim=True).clamp(min=1)).sum(dim=-1)


def save_heat_map(summary: dict[str, Any], path: Path) -> None:
    """Draw layer x expert for each modality, colour = share of the modality's tokens.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    modalities = summary["modalities"]
    figure = Figure(figsize=(3.2 * len(modalities) + 1.2, 3.4), layout="constrained")
    axes = figure.subplots(1, len(modalities), squeeze=False)[0]
    for axis, (key, values) in zip(axes, modalities.items(), strict=True):
        shares = values["share"]
        image = axis.imshow(shares, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axis.set_title(f"{key} · {values['mean_experts_used']:.1f} experts used")
        axis.set_xticks(range(len(shares[0])), target_names(len(shares[0]), summary["num_experts"]))
        axis.set_yticks(range(len(shares)), [str(layer) for layer in summary["layers"]])
        axis.set_xlabel("expert")
        axis.set_ylabel("layer")
    figure.colorbar(image, ax=list(axes), label="share of the modality's assignments")
    figure.savefig(path, dpi=120)


def target_names(targets: int, num_experts: int) -> list[str]:
    """Labels of the router's targets: expert numbers, then nulls."""
    return [str(index) if index < num_experts else f"null {index - num_experts}" for index in range(targets)]


__all__ = ["count_prompt_routing", "is_sparse", "save_heat_map", "summarise_routing", "target_names"]
