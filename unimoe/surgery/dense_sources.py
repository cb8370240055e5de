"""What operations between dense and sparse models share: models in, one with their weights out, how it is checked."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.loading import load_model
from ..configuration_unimoe import UniMoEConfig, UniMoETextConfig
from ..files.folder import AGAIN, CheckpointError
from ..modality import Modality
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..moe import GatedMLP, RoutingContext, SparseMoeBlock

Source = str | Path | UniMoEForConditionalGeneration

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""What counts as equal, relative to the largest absolute value compared."""


def load_dense(source: Source, *, role: str) -> UniMoEForConditionalGeneration:
    """Load a model, or take one, and check that it is dense.

    Args:
        source: A model or its folder.
        role: What it is for, for the error.

    Raises:
        ValueError: If it has experts already, or cannot be loaded.
    """
    if not isinstance(source, UniMoEForConditionalGeneration):
        source = load_model(source)
    require_dense(source.config, role=role)
    return source


def require_dense(config: UniMoEConfig, *, role: str) -> None:
    """Refuse a model that has experts already.

    Args:
        config: Of the model.
        role: What it is for, for the error.

    Raises:
        ValueError: If it has.
    """
    if num_experts := config.text_config.num_experts:
        raise ValueError(f"The {role} model already has {num_experts} experts; pass a dense one.")


def mapped_feed_forward(text: UniMoETextConfig, weights: Mapping[str, Tensor], start: str, folder: Path) -> GatedMLP:
    """Build the feed-forward of a dense layer whose weights stay in the files of its folder.

    Args:
        text: Configuration of the language model.
        weights: Of the folder by name.
        start: Of their names, such as `model.language_model.layers.0.mlp.`.
        folder: For the error.

    Raises:
        CheckpointError: If a weight is missing or of another shape.
    """
    with torch.device("meta"):
        mlp = GatedMLP(text, text.intermediate_size)
    for name, parameter in mlp.named_parameters():
        if (own := weights.get(start + name)) is None or own.shape != parameter.shape:
            found = "missing" if own is None else f"{tuple(own.shape)}, but {tuple(parameter.shape)} by config.json"
            raise CheckpointError(folder, f"{start}{name} is {found}. {AGAIN}")
    mlp.load_state_dict({name: weights[start + name] for name in mlp.state_dict()}, assign=True)
    return mlp.eval()


def source_name(source: Source) -> str:
    """Name the folder or Hub id of a source, for a certificate."""
    return str(source.name_or_path) if isinstance(source, UniMoEForConditionalGeneration) else str(source)


def model_like(
    source: UniMoEForConditionalGeneration, config: UniMoEConfig, *, without: tuple[str, ...] = ()
) -> UniMoEForConditionalGeneration:
    """Build a model of a configuration, in evaluation mode, with the weights of another one that it has too.

    Args:
        source: Model whose weights it gets.
        config: Of the new model.
        without: Beginnings of names of weights that it does not get.
    """
    model = UniMoEForConditionalGeneration._from_config(config, dtype=source.dtype).eval()
    if source.dtype == torch.float64:  # for which the default, grouped_mm, has no kernel
        model.set_experts_implementation("eager")
    model.generation_config = copy.deepcopy(source.generation_config)
    own = model.state_dict()
    with torch.no_grad():
        for name, value in source.state_dict().items():
            if name in own and not name.startswith(without):
                own[name].copy_(value)
    return model


def probe_states(size: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw random hidden states (T, D) of unit scale, in the dtype of `like`, on which operations are checked."""
    return torch.randn(64, size, generator=generator).to(like)


def probe_context(states: Tensor, vocab_size: int) -> RoutingContext:
    """Say of probe states (T, D) that they are of all modalities and of many tokens."""
    index = torch.arange(len(states), device=states.device)
    return RoutingContext(index % len(Modality), index % vocab_size)


@torch.no_grad()
def probe_block(block: SparseMoeBlock, mlp: GatedMLP, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ask a dense and a sparse feed-forward about the same random hidden states.

    Args:
        block: In evaluation mode.
        mlp: The dense one.
        generator: Source of chance.

    Returns:
        What the dense one answers and what the sparse one answers, (T, D) both.
    """
    probe = probe_states(mlp.down_proj.out_features, mlp.down_proj.weight, generator)
    return mlp(probe), block(probe[None], probe_context(probe, block.config.vocab_size))[0]


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """Find the largest absolute difference, relative to the largest absolute value expected."""
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


@torch.no_grad()
def largest_difference(block: SparseMoeBlock, sources: Sequence[GatedMLP], generator: torch.Generator) -> float:
    """Compare the experts of a block with their sources on random hidden states, relative to the largest output.

    Args:
        block: Its experts are as many as sources, or a whole number of times as many: slices that add up.
        sources: Dense feed-forwards.
        generator: Source of chance.
    """
    experts = block.experts
    probe = probe_states(experts.hidden_dim, sources[0].down_proj.weight, generator)
    pieces = experts.num_experts // len(sources)
    outputs = [experts.expert_output(expert, probe) for expert in range(experts.num_experts)]
    return max(
        relative_difference(torch.stack(outputs[index * pieces : (index + 1) * pieces]).sum(dim=0), source(probe))
        for index, source in enumerate(sources)
    )
