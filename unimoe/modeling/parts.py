"""Parameters by name: the parts that can be trained or frozen, and those whose result nobody reads.

The latter are the pooler of a ViT, or layers above the one whose states are taken. They are part of pretrained towers
and stay in checkpoints, but no gradient ever reaches them. Which they are is found by asking autograd, on the meta
device: no memory, no arithmetic.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..configuration_unimoe import UniMoEConfig
from ..connectors import build_connector
from ..encoders.encoder import Encoder, join_layers, run_tower

_BY_MODALITY = re.compile(r"(?:^|\.)(?:encoders|connectors|reserved_experts|router\.reserved)\.(\w+)\.")
"""Parts that have one part for each modality, or task: `encoders.image`, `reserved_experts.task_ocr`."""

# Pattern within a parameter's name -> part, of our models and of transformers' mixtures. The first that fits decides.
_PARTS = {
    "encoders": r"(^|\.)(encoders|visual|vision_tower|vision_model|audio_tower)\.",
    "connectors": r"(^|\.)(connectors|multi_modal_projector)\.",
    "lm_head": r"(^|\.)lm_head\.",
    "embeddings": r"embed_tokens",
    "attention": r"\.(self_attn|linear_attn|attention)\.",
    "reserved_experts": r"\.reserved_experts\.",
    "reserved_router": r"\.router\.reserved\.",
    "expert_base": r"\.experts\.base\.",
    "experts": r"\.experts\.",
    "shared_experts": r"\.shared_experts?(\.|_gate\.)",
    "router": r"\.(router|gate|slots|scale)(\.|$)|\.e_score_correction_bias",
    "mlp": r"\.mlp\.",
    "norms": r"norm",
}


def group_by_part(names: Iterable[str]) -> dict[str, list[str]]:
    """Group parameters by the parts that they belong to, by their names in `UniMoEForConditionalGeneration`."""
    parts: dict[str, list[str]] = {}
    for name in names:
        for part in _parts_of(name):
            parts.setdefault(part, []).append(name)
    return parts


def part_of(name: str) -> str:
    """Part that a parameter belongs to, by its name in memory or on disk; `other`, if it is none that is known."""
    return next((part for part, pattern in _PARTS.items() if re.search(pattern, name)), "other")


def _parts_of(name: str) -> list[str]:
    part, by_modality = part_of(name), _BY_MODALITY.search(name)
    return [part, f"{part}.{by_modality[1]}"] if by_modality else [part]


def unread_parameters(config: UniMoEConfig) -> set[str]:
    """Name, within a `UniMoEModel` of this configuration, the parameters of encoders and connectors that change
    nothing of what they give. Of a tower whose features have no known shape, none.
    """
    return {name for key in config.encoder_keys for name in _unread(config, key)}


_FOUND: dict[tuple[Any, ...], list[str]] = {}  # by all that the answer depends on: autograd is asked once


def _unread(config: UniMoEConfig, key: str) -> list[str]:
    encoder, connector = config.encoder_config(key), config.connector_config(key)
    question = (key, encoder.to_json_string(False), connector.to_json_string(False), config.text_config.hidden_size)
    if question not in _FOUND:
        _FOUND[question] = list(_ask_autograd(config, key))
    return _FOUND[question]


def _ask_autograd(config: UniMoEConfig, key: str) -> Iterator[str]:
    encoder, connector = config.encoder_config(key), config.connector_config(key)
    with torch.device("meta"):
        tokens = torch.empty(1, encoder.num_tokens, encoder.hidden_size)
        twin = build_connector(
            connector,
            input_size=encoder.hidden_size,
            output_size=config.text_config.hidden_size,
            grid=encoder.token_grid,
        )
        yield from (f"connectors.{key}.{name}" for name in _without_gradient(twin.eval(), twin, tokens))
        if (shape := features_shape(encoder.tower_config)) is None:
            return
        reader = _Tokens(Encoder(encoder)).eval()
        names = _without_gradient(reader.encoder, reader, torch.empty(1, *shape))
    yield from (f"encoders.{key}.{name}" for name in names)


class _Tokens(nn.Module):
    """An encoder as it reads its tower, of features of any size."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Tensor) -> Tensor:
        """Return tokens (N, L, C)."""
        encoder = self.encoder
        output = run_tower(encoder.tower, features, output_hidden_states=encoder.layers != [-1])
        return join_layers(encoder.tower, output, encoder.layers, **encoder.prefix)[0]


def features_shape(tower: Any) -> tuple[int, ...] | None:
    """Give the shape of one unit of features as a tower takes it; None if its configuration does not tell."""
    kind = tower.model_type
    if kind == "whisper":
        return tower.num_mel_bins, 2 * tower.max_source_positions
    if kind in ("audio-spectrogram-transformer", "unimoe_beats"):
        return tower.max_length, tower.num_mel_bins
    if getattr(tower, "num_mel_bins", None):
        return None
    size = getattr(tower, "image_size", None) or 224
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return getattr(tower, "num_channels", None) or 3, height, width


def _without_gradient(owner: nn.Module, module: nn.Module, inputs: Tensor) -> list[str]:
    """Name the parameters of `owner` that no gradient of `module`'s result reaches; none if it cannot run."""
    parameters = dict(owner.requires_grad_(True).named_parameters())
    try:
        with torch.enable_grad():
            found = torch.autograd.grad(module(inputs).sum(), list(parameters.values()), allow_unused=True)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):  # of towers that cannot run without values
        return []
    return [name for name, gradient in zip(parameters, found, strict=True) if gradient is None]


__all__ = ["features_shape", "group_by_part", "part_of", "unread_parameters"]
