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
    known = name in ("vit", "clip", "siglip", "dinov2")
    measured: dict[str, Any] = {} if known else measure_tower(tower, (3, 32, 32))
    return UniMoEVisionConfig(tower_config=VISION[name], **measured)


@pytest.mark.parametrize("name", VISION)
def test_a_vision_tower_is_found_by_configuration_and_gives_its_patches(name: str) -> None:
    config = vision_config(name)
    encoder = Encoder(config).eval()
    assert encoder(torch.randn(2, 3, 32, 32)).last_hidden_state.shape == (2, TOKENS[name], config.hidden_size)
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
    assert torch.equal(encoder(pixels).last_hidden_state, states[:, config.num_prefix_tokens :])


def test_an_inner_layer_can_be_read() -> None:
    config = UniMoEVisionConfig(tower_config=VISION["vit"], feature_layer=-2)
    encoder = Encoder(config).eval()
    pixels = torch.randn(1, 3, 32, 32)
    expected = encoder.tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert torch.equal(encoder(pixels).last_hidden_state, expected)


def test_whisper_gives_its_encoder_alone() -> None:
    encoder = Encoder(UniMoESpeechConfig(tower_config=WHISPER)).eval()
    assert encoder(torch.randn(2, 80, 100)).last_hidden_state.shape == (2, 50, 16)
    assert not any("decoder" in name for name, _ in encoder.named_parameters())


def test_ast_tokens_are_counted_without_running_it() -> None:
    config = UniMoEAudioConfig(tower_config=AST)
    measured = measure_tower(config.tower_config, (56, 32))
    assert measured.items() <= config.to_dict().items() and measured["num_prefix_tokens"] == 2
    assert Encoder(config).eval()(torch.randn(2, 56, 32)).last_hidden_state.shape == (2, config.num_tokens, 16)


@pytest.mark.parametrize(
    ("config", "grid"),
    [
        (UniMoEVisionConfig(tower_config=VISION["vit"]), [4, 4]),
        (UniMoEAudioConfig(tower_config=AST), [2, 5]),
        (UniMoESpeechConfig(tower_config=WHISPER), [1, 50]),
        (UniMoEVisionConfig(tower_config=VISION["vit"], keep_prefix=True), [1, 17]),
        (UniMoEVisionConfig(tower_config=RESNET, num_tokens=9), [3, 3]),
        (UniMoEVisionConfig(tower_config=RESNET, num_tokens=10), [1, 10]),
        (UniMoEVisionConfig(tower_config=RESNET, token_grid=[2, 5]), [2, 5]),
    ],
    ids=["vit", "ast", "whisper", "class token", "square", "row", "stated"],
)
def test_tokens_of_a_unit_lie_in_a_grid(config: Any, grid: list[int]) -> None:
    assert (config.token_grid, config.num_tokens) == (grid, grid[0] * grid[1])


def test_the_grid_is_that_of_the_feature_map() -> None:
    tower = AutoConfig.for_model(**RESNET)
    measured = measure_tower(tower, (3, 32, 64))
    assert measured == {"num_tokens": 32, "token_grid": [4, 8], "hidden_size": 24, "num_prefix_tokens": 0}


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


BEATS = {
    "model_type": "unimoe_beats",
    "max_length": 32,
    "num_mel_bins": 16,
    "patch_size": 4,
    "patch_embedding_size": 6,
    "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 2,
    **SMALL,
}


def test_beats_tokens_are_counted_without_running_it() -> None:
    config = UniMoEAudioConfig(tower_config=BEATS)
    measured = measure_tower(config.tower_config, (32, 16))
    assert measured.items() <= config.to_dict().items() and config.token_grid == [8, 4]
    assert config.time_axis == "rows" and UniMoEAudioConfig(tower_config=AST).time_axis == "columns"
    assert Encoder(config).eval()(torch.randn(2, 32, 16)).last_hidden_state.shape == (2, 32, 16)


@torch.no_grad()
def test_timm_vits_are_read_at_any_layer_and_keep_their_class_token_at_the_last() -> None:
    tower = AutoConfig.for_model(**VISION["timm-vit"])
    pixels = torch.randn(2, 3, 32, 32)
    measured = measure_tower(tower, (3, 32, 32), feature_layer=[-2, -1])
    assert measured == {"num_tokens": 4, "token_grid": [2, 2], "hidden_size": 128, "num_prefix_tokens": 1}
    encoder = Encoder(UniMoEVisionConfig(tower_config=VISION["timm-vit"], feature_layer=[-2, -1], **measured)).eval()
    timm = encoder.tower.timm_model
    states: list[torch.Tensor] = []
    timm.blocks[-2].register_forward_hook(lambda _module, _inputs, output: states.append(output))
    tokens = encoder(pixels).last_hidden_state
    assert torch.equal(tokens[..., :64], states[0][:, 1:])
    assert torch.equal(tokens[..., 64:], timm.forward_features(pixels)[:, 1:])

    whole = measure_tower(tower, (3, 32, 32), keep_prefix=True)
    assert (whole["num_tokens"], whole["token_grid"]) == (5, [1, 5])
    keeping = Encoder(UniMoEVisionConfig(tower_config=VISION["timm-vit"], keep_prefix=True, **whole)).eval()
    assert torch.equal(keeping(pixels).last_hidden_state, keeping.tower.timm_model.forward_features(pixels))
    with pytest.raises(ValueError, match="keep_prefix: layer -2 of TimmWrapperModel is a feature map"):
        measure_tower(tower, (3, 32, 32), feature_layer=-2, keep_prefix=True)


@torch.no_grad()
def test_an_inner_feature_map_is_read_row_by_row() -> None:
    tower = AutoConfig.for_model(**RESNET)
    measured = measure_tower(tower, (3, 32, 32), feature_layer=1)
    assert measured == {"num_tokens": 64, "token_grid": [8, 8], "hidden_size": 16, "num_prefix_tokens": 0}
    encoder = Encoder(UniMoEVisionConfig(tower_config=RESNET, feature_layer=1, **measured)).eval()
    pixels = torch.randn(1, 3, 32, 32)
    states = encoder.tower(pixels, output_hidden_states=True).hidden_states[1]
    expected = torch.stack([states[0, :, y, x] for y in range(8) for x in range(8)])
    assert torch.equal(encoder(pixels).last_hidden_state[0], expected)


def test_a_tower_of_several_sequences_is_refused() -> None:
    crossvit = AutoConfig.for_model("timm_wrapper", architecture="crossvit_9_240")
    with pytest.raises(ValueError, match="TimmWrapperModel gives neither one sequence of tokens nor one feature map"):
        measure_tower(crossvit, (3, 240, 240))


def test_layers_that_do_not_exist_or_do_not_fit_are_refused() -> None:
    vit = AutoConfig.for_model(**VISION["vit"])
    with pytest.raises(ValueError, match="feature_layer 3: ViTModel has 3 hidden states, numbered from -3 to 2"):
        measure_tower(vit, (3, 32, 32), feature_layer=3)
    with pytest.raises(
        ValueError, match=r"feature_layer \[1, 2\]: these layers of ResNetModel have \[64, 16\] tokens"
    ):
        measure_tower(AutoConfig.for_model(**RESNET), (3, 32, 32), feature_layer=[1, 2])
    with pytest.raises(ValueError, match="feature_layer is empty"):
        UniMoEVisionConfig(tower_config=VISION["vit"], feature_layer=[])


@pytest.mark.parametrize("name", ["vit", "clip", "siglip"])
def test_pictures_of_another_size_than_the_tower_has_positions_for_are_refused(name: str) -> None:
    encoder = Encoder(vision_config(name))
    with pytest.raises(ValueError, match=r"takes pictures of 32 x 32 pixels, got \(48, 32\)\. Set the image proc"):
        encoder(torch.randn(1, 3, 48, 32))


def test_a_tower_that_interpolates_its_positions_takes_the_size_that_was_measured() -> None:
    measured = measure_tower(AutoConfig.for_model(**VISION["dinov2"]), (3, 48, 48))
    encoder = Encoder(UniMoEVisionConfig(tower_config=VISION["dinov2"], **measured)).eval()
    assert encoder(torch.randn(1, 3, 48, 48)).last_hidden_state.shape == (1, 36, 16)


def test_whisper_takes_a_whole_window_only() -> None:
    encoder = Encoder(UniMoESpeechConfig(tower_config=WHISPER)).eval()
    with pytest.raises(ValueError, match="Whisper expects the mel input features to be of length 100"):
        encoder(torch.randn(1, 80, 90))


def test_a_tower_whose_stages_merge_patches_must_be_measured() -> None:
    with pytest.raises(ValueError, match="num_tokens of a 'convnext' tower cannot be told from its configuration"):
        UniMoEVisionConfig(tower_config=VISION["convnext"])


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("deit", 2),
        ("beit", 1),
        ("dinov2_with_registers", 5),
        ("data2vec-vision", 1),
        ("vit_msn", 1),
        ("ijepa", 0),
    ],
)
@torch.no_grad()
def test_tokens_before_the_patches_are_known(name: str, prefix: int) -> None:
    fields = {"model_type": name, "image_size": 32, "patch_size": 8, **SMALL}
    tower = AutoConfig.for_model(**fields)
    assert measure_tower(tower, (3, 32, 32))["num_tokens"] == 16
    config = UniMoEVisionConfig(tower_config=fields)
    assert (config.num_prefix_tokens, config.num_tokens) == (prefix, 16)
    whole = Encoder(UniMoEVisionConfig(tower_config=fields, keep_prefix=True)).eval()
    assert whole(torch.randn(1, 3, 32, 32)).last_hidden_state.shape == (1, 16 + prefix, 16)


def test_the_pooled_token_of_dinov3s_convnext_is_no_patch() -> None:
    tower = AutoConfig.for_model("dinov3_convnext", hidden_sizes=[4, 8, 8, 16], depths=[1, 1, 1, 1])
    assert measure_tower(tower, (3, 64, 64))["token_grid"] == [2, 2]


@torch.no_grad()
def test_the_inner_layers_of_a_timm_tower_with_channels_last_are_read_row_by_row() -> None:
    architecture = {"model_type": "timm_wrapper", "architecture": "swin_tiny_patch4_window7_224"}
    measured = measure_tower(AutoConfig.for_model(**architecture), (3, 224, 224), feature_layer=1)
    assert (measured["token_grid"], measured["hidden_size"]) == ([28, 28], 192)
    encoder = Encoder(UniMoEVisionConfig(tower_config=architecture, feature_layer=1, **measured)).eval()
    states: list[torch.Tensor] = []
    encoder.tower.timm_model.layers[1].register_forward_hook(lambda _module, _inputs, output: states.append(output))
    tokens = encoder(torch.randn(1, 3, 224, 224)).last_hidden_state
    assert states[0].shape == (1, 28, 28, 192) and torch.equal(tokens, states[0].flatten(1, 2))
