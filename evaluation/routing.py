"""Which experts the tokens of each modality went to, layer by layer, and a heat map of it.

L sparse layers, M modalities, E experts; the targets E' are the experts, then the null experts.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from unimoe import UniMoETextConfig
from unimoe.modality import Modality
from unimoe.moe.statistics import count_routing

from .generate import encode_batch, make_batches
from .processes import own, total
from .progress import track
from .tasks import Sample


def is_sparse(model: Any) -> bool:
    """Tell whether the routers tell their choices; those of other packages do not tell them per modality."""
    text = model.config.get_text_config()
    return isinstance(text, UniMoETextConfig) and text.num_experts > 0


def count_prompt_routing(
    model: Any, processor: Any, samples: Sequence[Sample], *, batch_size: int, description: str, console: Console
) -> Tensor | None:
    """Count the routing of all prompt tokens (media and text) of the rows; all processes must call this.

    Returns:
        Assignments (L, M, E'), int64; None for a dense model.
    """
    if not is_sparse(model) or not samples:
        return None
    text = model.config.get_text_config()
    counts = torch.zeros(len(sparse_layers(text)), len(Modality), text.num_router_targets, dtype=torch.long)
    for batch in track(own(make_batches(samples, batch_size)), description, console=console):
        inputs = encode_batch(processor, batch, device=model.device, dtype=model.dtype)
        with torch.inference_mode():
            output = model(**inputs, output_router_logits=True, logits_to_keep=1, use_cache=False)
        modalities = inputs.get("mm_token_type_ids", torch.zeros_like(inputs["input_ids"]))
        counts += count_routing(output.expert_mask, modalities, inputs["attention_mask"]).cpu()
    return total(counts)


def sparse_layers(text_config: Any) -> list[int]:
    """List the layers that have experts."""
    return [layer for layer in range(text_config.num_hidden_layers) if text_config.is_sparse(layer)]


def summarise_routing(counts: Tensor, *, num_experts: int, layers: Sequence[int]) -> dict[str, Any]:
    """Compute shares, entropy and experts used, for each modality that occurred.

    Args:
        counts: Assignments (L, M, E').
        num_experts: Targets from this one on are null experts; they have a share, but count as no expert used.
        layers: Indices of the L sparse layers.

    Returns:
        `layers`, `num_experts`, and under `modalities` by key, with one entry for each layer: `counts` and `share` of
        the targets, `entropy` (nats) over the experts, `experts_used` = exp(entropy), between 1 and E, `null_share`,
        and `specialisation`: the Kullback-Leibler divergence of the modality's share from the mean share of the M
        modalities, over its largest value log M: 0 where all modalities use the experts alike, 1 where this one has
        experts of its own. (Its mean over the modalities is their Jensen-Shannon divergence, the information that
        experts carry of the modality.) And `mean_experts_used` over the layers.
    """
    specialisation = _specialisation(counts.double())
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
            "specialisation": specialisation[:, modality].tolist(),
        }
    return {"layers": list(layers), "num_experts": num_experts, "modalities": modalities}


def _entropy(counts: Tensor) -> Tensor:
    """Compute the entropy in nats of counts over the last dimension; 0 log 0 = 0."""
    return torch.special.entr(counts / counts.sum(dim=-1, keepdim=True).clamp(min=1)).sum(dim=-1)


def _specialisation(counts: Tensor) -> Tensor:
    """Compute how far each modality's share of the targets is from the mean share of those that occur, (L, M)."""
    occurs = counts.sum(dim=(0, 2)) > 0  # (M,)
    if occurs.sum() < 2:
        return torch.zeros(counts.shape[:2])
    share = counts / counts.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = share[:, occurs].mean(dim=1, keepdim=True)  # (L, 1, E')
    divergence = (torch.special.xlogy(share, share) - torch.special.xlogy(share, mean)).sum(dim=-1)
    return divergence.clamp(min=0) / math.log(int(occurs.sum()))


def save_layer_plot(summary: dict[str, Any], path: Path) -> None:
    """Draw experts used and specialisation of each modality over the layers.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, key, label in zip(
        axes, ("experts_used", "specialisation"), ("experts used", "specialisation"), strict=True
    ):
        for name, values in summary["modalities"].items():
            axis.plot(summary["layers"], values[key], marker="o", label=name)
        axis.set_xlabel("layer")
        axis.set_ylabel(label)
        axis.set_xticks(summary["layers"])
        axis.set_ylim(*((0, 1) if key == "specialisation" else (1, max(summary["num_experts"], 2))))
    axes[0].legend()
    figure.savefig(path, dpi=120)


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
    """Name the router's targets: expert numbers, then nulls."""
    return [str(index) if index < num_experts else f"null {index - num_experts}" for index in range(targets)]


__all__ = [
    "count_prompt_routing",
    "is_sparse",
    "save_heat_map",
    "save_layer_plot",
    "sparse_layers",
    "summarise_routing",
    "target_names",
]
