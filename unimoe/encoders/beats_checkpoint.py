"""Read BEATs from the file its authors publish, `{"cfg": ..., "model": ...}`; save it as any transformers model."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ..errors import UniMoEError
from .beats.configuration import UniMoEBeatsConfig
from .beats.modeling import BeatsModel

_FIELDS = {
    "input_patch_size": "patch_size",
    "embed_dim": "patch_embedding_size",
    "conv_bias": "conv_bias",
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "encoder_attention_heads": "num_attention_heads",
    "activation_fn": "hidden_act",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "conv_pos": "num_conv_pos_embeddings",
    "conv_pos_groups": "num_conv_pos_embedding_groups",
    "num_buckets": "num_buckets",
    "max_distance": "max_bucket_distance",
}
"""Keys of the file's `cfg` -> our fields."""
# Variants of the architecture; `BeatsModel` is the one that was published.
_ARCHITECTURE = {
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "layer_norm_first": False,
}
_RENAMED = {
    "pos_conv.0.weight_g": "pos_conv.0.parametrizations.weight.original0",
    "pos_conv.0.weight_v": "pos_conv.0.parametrizations.weight.original1",
}
_SHARED_BIAS = "self_attn.relative_attention_bias.weight"


def load_beats_checkpoint(path: str | Path, *, max_length: int = 1024, mask_padding: bool = False) -> BeatsModel:
    """Load a published BEATs checkpoint, with or without the classifier of fine-tuning, which is left out.

    The layout is that of https://github.com/microsoft/unilm/tree/master/beats. Loading is unverified on a published
    file: it was tried on files made in that layout. What only training uses beyond dropout (layer drop, decay of
    gradients by layer) is not carried over.

    Args:
        path: The `.pt` file.
        max_length: Frames of a window, 10 ms each, of the configuration.
        mask_padding: As in the configuration.

    Returns:
        The model in evaluation mode. With `BeatsFeatureExtractor(max_length=...)` saved beside it, the folder that
        `save_pretrained` writes is what `unimoe build --audio` takes.

    Raises:
        ValueError: If the file is of another layout or architecture, or a weight is missing, unknown, or of another
            shape.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no checkpoint of tensors and plain values ({reason}).") from error
    if not (isinstance(saved, dict) and isinstance(saved.get("cfg"), dict) and isinstance(saved.get("model"), dict)):
        raise ValueError(f"{path} is no BEATs checkpoint: it needs two dictionaries, 'cfg' and 'model'.")
    cfg: dict[str, Any] = saved["cfg"]
    for key, value in _ARCHITECTURE.items():
        if bool(cfg.get(key)) != value:
            raise ValueError(f"{path}: cfg[{key!r}] is {cfg.get(key)!r}, but only BEATs with {value} is supported.")
    if absent := [key for key in _FIELDS if key not in cfg]:
        raise ValueError(f"{path}: cfg lacks {', '.join(absent)}.")
    fields = {ours: cfg[theirs] for theirs, ours in _FIELDS.items()}
    try:
        model = BeatsModel(UniMoEBeatsConfig(**fields, max_length=max_length, mask_padding=mask_padding))
        model.load_state_dict(_weights(saved["model"], path))
    except UniMoEError as error:
        raise UniMoEError(str(path), str(error)) from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: weights and cfg do not fit ({reason}).") from error
    return model.eval()


def _weights(saved: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Weights under our names, the shared position bias once, without a classifier."""
    first_name = f"encoder.layers.0.{_SHARED_BIAS}"
    first = saved.get(first_name)
    weights: dict[str, Tensor] = {}
    for name, tensor in saved.items():
        if name.startswith("predictor."):
            continue
        if name.endswith(_SHARED_BIAS) and name != first_name:
            if first is None or not torch.equal(tensor, first):
                raise ValueError(f"{path}: {name} differs from that of layer 0, but all layers share it.")
            continue
        for theirs, ours in _RENAMED.items():
            name = name.replace(theirs, ours)
        weights[name] = tensor
    return weights


__all__ = ["load_beats_checkpoint"]
