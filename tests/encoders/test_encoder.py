"""Towers of every kind, found by configuration, give the tokens of transformers' own classes."""

from typing import Any

import pytest
import torch
from tiny import AST, RESNET, WHISPER
from transformers import AutoConfig, AutoModel

from unimoe import UniMoEAudioConfig, UniMoESpeechConfig, UniMoEVisionConfig
from unimoe.encoders import Encoder, measure_tower

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
VISION = {
    "vit": {"model_type": "vit", "image_size": 32, "patch_size": 8, **SMALL},
    "clip": {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, **SMALL},
    "siglip": {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, **SMALL},
    "dinov2": {"model_type": "dinov2", "image_size": 32, "patch_size": 8, **SMALL},
    "resnet": RESNET,
    "convnext": {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "timm-cnn": {"model_type": "timm_wrapper", "architecture": "test_resnet", "model_args": {"in_chans": 3}},
    "timm-vit": {"model_type": "timm_wrapper", "architecture": "test_vit", "model_args": {"img_size": 32}},
}
TOKENS = {
    "vit": 16,
    "clip": 16,
    "siglip": 16,
    "dinov2": 16,
    "resnet": 16,
    "convnext": 16,
    "timm-cnn": 1,
    "timm-vit": 4,
}


def vision_config(name: str) -> UniMoEVisionConfig:
    tower = AutoConfig.for_model(**VISION[name])
    prefix = {"num_prefix_tokens": 1} if name == "timm-vit" else {}
    known = name in ("vit", "clip", "siglip", "dinov2")
    measured: dict[str, Any] = {} if known else measure_tower(tower, (3, 32, 32), **prefix)
    return UniMoEVisionConfig(tower_config=VISION[name], **measured, **prefix)


@pytest.mark.parametrize("name", VISION)
def test_a_vision_tower_is_found_by_configuration_and_gives_its_patches(name: str) -> None:
    config = vision_config(name)
    encoder = Encoder(config).eval()
    assert encoder(torch.randn(2, 3, 32, 32)).shape == (2, TOKENS[name], config.hidden_size)
    assert config.num_tokens == TOKENS[name]


@pytest.mark.parametrize("name", VISION)
@torch.no_grad()
def test_tokens_are_those_of_the_tower_itself_without_its_prefix(name: str) -> None:
    config = vision_config(name)
    encoder = Encoder(config).eval()
    tower = AutoModel.from_config(config.tower_config).eval()
    tower.load_state_dict(encoder.tower.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    states = tower(pixels).last_hidden_state
    if states.dim() == 4:
        states = torch.stack([states[:, :, y, x] for y in range(states.shape[2]) for x in range(states.shape[3])], 1)
    assert torch.equal(encoder(pixels), states[:, config.num_prefix_tokens :])


def test_an_inner_layer_can_be_read() -> None:
    config = UniMoEVisionConfig(tower_config=VISION["vit"], feature_layer=-2)
    encoder = Encoder(config).eval()
    pixels = torch.randn(1, 3, 32, 32)
    expected = encoder.tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert torch.equal(encoder(pixels), expected)


def test_whisper_gives_its_encoder_alone() -> None:
    encoder = Encoder(UniMoESpeechConfig(tower_config=WHISPER)).eval()
    assert encoder(torch.randn(2, 80, 100)).shape == (2, 50, 16)
    assert not any("decoder" in name for name, _ in encoder.named_parameters())


def test_ast_tokens_are_counted_without_running_it() -> None:
    config = UniMoEAudioConfig(tower_config=AST)
    measured = measure_tower(config.tower_config, (56, 32), num_prefix_tokens=2)
    assert measured == {
        "num_tokens": config.num_tokens,
        "token_grid": config.token_grid,
        "hidden_size": config.hidden_size,
    }
    assert Encoder(config).eval()(torch.randn(2, 56, 32)).shape == (2, config.num_tokens, 16)


@pytest.mark.parametrize(
    ("config", "grid"),
    [
        (UniMoEVisionConfig(tower_config=VISION["vit"]), [4, 4]),
        (UniMoEAudioConfig(tower_config=AST), [2, 5]),
        (UniMoESpeechConfig(tower_config=WHISPER), [1, 50]),
        (UniMoEVisionConfig(tower_config=RESNET, num_tokens=9), [3, 3]),
        (UniMoEVisionConfig(tower_config=RESNET, num_tokens=10), [1, 10]),
        (UniMoEVisionConfig(tower_config=RESNET, token_grid=[2, 5]), [2, 5]),
    ],
    ids=["vit", "ast", "whisper", "square", "row", "stated"],
)
def test_tokens_of_a_unit_lie_in_a_grid(config: Any, grid: list[int]) -> None:
    assert (config.token_grid, config.num_tokens) == (grid, grid[0] * grid[1])


def test_the_grid_is_that_of_the_feature_map() -> None:
    tower = AutoConfig.for_model(**RESNET)
    assert measure_tower(tower, (3, 32, 64)) == {"num_tokens": 32, "token_grid": [4, 8], "hidden_size": 24}


def test_ast_tokens_lie_by_frequency_and_run_in_time() -> None:
    encoder = Encoder(UniMoEAudioConfig(tower_config=AST)).eval()
    frames = torch.zeros(1, 56, 32)
    frames[:, 46:] = 1.0  # the last patch of 16 frames alone, in every band of frequency
    embeddings = encoder.tower.embeddings.patch_embeddings
    changed = (embeddings(frames) - embeddings(torch.zeros(1, 56, 32))).abs().amax(-1).view(2, 5) > 0
    assert changed.any(0).tolist() == [False, False, False, False, True]


def test_a_grid_that_does_not_hold_the_tokens_is_refused() -> None:
    with pytest.raises(Exception, match=r"token_grid is \[4, 5\]; it is \[rows, columns\] and holds the 16 tokens"):
        UniMoEVisionConfig(tower_config=VISION["vit"], num_tokens=16, token_grid=[4, 5])


def test_features_of_another_size_are_refused_with_both_counts() -> None:
    config = vision_config("resnet")
    with pytest.raises(ValueError, match=r"gave 64 tokens .* but num_tokens is 16"):
        Encoder(config)(torch.randn(1, 3, 64, 64))
