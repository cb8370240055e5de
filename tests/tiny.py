"""Tiny models for tests: every kind of tower and connector, random weights, a fraction of a second on a CPU."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from unimoe import UniMoEConfig, UniMoEForConditionalGeneration
from unimoe.encoders import measure_tower

RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 24],
    "depths": [1, 1],
    "layer_type": "basic",
}
AST = {
    "model_type": "audio-spectrogram-transformer",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_length": 56,
    "num_mel_bins": 32,
}
WHISPER = {
    "model_type": "whisper",
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "max_source_positions": 50,
    "num_mel_bins": 80,
}
QFORMER = {
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "encoder_hidden_size": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PLACEHOLDERS = {"image_token_id": 60, "video_token_id": 61, "audio_token_id": 62, "speech_token_id": 63}


@cache
def measured_resnet() -> dict[str, Any]:
    """What the tower of pictures gives; measured once."""
    return measure_tower(AutoConfig.for_model(**RESNET), (3, 32, 32))


def tiny_config(**text: Any) -> UniMoEConfig:
    """All modalities, a CNN, an AST and a Whisper encoder, both kinds of connector. `text` changes the language
    model.
    """
    return UniMoEConfig(
        text_config={**TEXT, **text},
        vision_config={"tower_config": RESNET, **measured_resnet()},
        audio_config={"tower_config": AST},
        speech_config={"tower_config": WHISPER},
        audio_connector_config={"type": "qformer", "num_queries": 3, "num_attention_heads": 4},
        speech_connector_config={"stack": 10},
        video_max_frames=4,
        video_temporal_stride=2,
        **PLACEHOLDERS,
    )


def tiny_model(seed: int = 0, **text: Any) -> UniMoEForConditionalGeneration:
    """A model of `tiny_config` in evaluation mode."""
    torch.manual_seed(seed)
    return UniMoEForConditionalGeneration(tiny_config(**text)).eval()


def tiny_inputs(config: UniMoEConfig, seed: int = 0) -> dict[str, Tensor]:
    """One row with every medium: a picture, two windows of speech, a sound, a clip, and text around them."""
    generator = torch.Generator().manual_seed(seed)
    counts = config.num_tokens
    ids = [5] + [60] * counts["image"] + [6, 7] + [63] * counts["speech"] * 2
    ids += [62] * counts["audio"] + [8] + [61] * counts["video"] * 2 + [9, 10]

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values": random(1, 3, 32, 32),
        "speech_features": random(2, 80, 100),
        "audio_features": random(1, 56, 32),
        "pixel_values_videos": random(2, 2, 3, 32, 32),
    }


def randomise(model: nn.Module, scale: float = 0.05) -> None:
    """Give norms and biases values too, so that parity is not of ones and zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
