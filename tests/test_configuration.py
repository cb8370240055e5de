"""Configurations: validated, strict, and the same after saving and loading."""

from pathlib import Path

import pytest
from tiny import AST, RESNET, WHISPER, tiny_config
from transformers import AutoConfig

from unimoe import (
    UniMoEAudioConfig,
    UniMoEConfig,
    UniMoEConnectorConfig,
    UniMoEForConditionalGeneration,
    UniMoESpeechConfig,
    UniMoETextConfig,
    UniMoEVisionConfig,
)

CONFIGS = [
    UniMoEConfig,
    UniMoETextConfig,
    UniMoEVisionConfig,
    UniMoEAudioConfig,
    UniMoESpeechConfig,
    UniMoEConnectorConfig,
]


def test_configuration_survives_saving_and_loading(tmp_path: Path) -> None:
    config = tiny_config(num_experts=4, modality_routing="semi_isolated", expert_groups={"image": [0, 1]})
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.to_json_string() == config.to_json_string()
    assert loaded.vision_config.tower_config.model_type == "resnet"
    assert loaded.num_tokens == config.num_tokens


@pytest.mark.parametrize("config_class", CONFIGS)
def test_every_configuration_has_its_own_registered_model_type(config_class: type) -> None:
    assert config_class.model_type.startswith("unimoe")
    assert [c.model_type for c in CONFIGS].count(config_class.model_type) == 1
    if config_class in (UniMoEConfig, UniMoETextConfig, UniMoEConnectorConfig):
        assert type(AutoConfig.for_model(config_class.model_type)) is config_class


@pytest.mark.parametrize("config_class", CONFIGS)
def test_an_unknown_key_is_refused_by_name(config_class: type) -> None:
    with pytest.raises(Exception, match="unknown key 'colour'"):
        config_class(colour="red")


def test_a_misspelt_key_gets_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'num_expert'\. Did you mean 'num_experts'\?"):
        UniMoETextConfig(num_expert=4)


def test_a_wrong_choice_and_a_wrong_type_are_refused() -> None:
    with pytest.raises(Exception, match="modality_routing"):
        UniMoETextConfig(num_experts=2, modality_routing="per-token")
    with pytest.raises(Exception, match="hidden_size"):
        UniMoETextConfig(hidden_size="wide")


def test_a_tower_of_unknown_size_must_be_measured() -> None:
    with pytest.raises(ValueError, match="measure_tower"):
        UniMoEVisionConfig(tower_config=RESNET)


def test_a_medium_needs_its_placeholder_token() -> None:
    values = {**tiny_config().to_dict(), "speech_token_id": None}
    with pytest.raises(Exception, match="speech_token_id is None"):
        UniMoEConfig.from_dict(values)


def test_stack_must_divide_the_tokens() -> None:
    values = {**tiny_config().to_dict(), "speech_connector_config": {"stack": 7}}
    with pytest.raises(Exception, match=r"stack \(7\) does not divide 50 tokens"):
        UniMoEConfig.from_dict(values)


@pytest.mark.parametrize(
    ("key", "fields", "problem"),
    [
        ("image", {"type": "pooling", "stride": 3}, r"stride \[3, 3\] does not divide the 4 rows and 4 columns"),
        (
            "speech",
            {"type": "pixel_shuffle", "stride": 7},
            r"stride \[1, 7\] does not divide the 1 rows and 50 columns",
        ),
        ("image", {"type": "pooling", "output_grid": [4, 5]}, r"output_grid \[4, 5\] is larger than the 4 rows and 4"),
        (
            "image",
            {"type": "query_decoder", "decoder_config": WHISPER},
            r"decoder_config.d_model \(16\) is not the encoder's width \(24\)",
        ),
        (
            "image",
            {"type": "blip2_qformer", "qformer_config": {"encoder_hidden_size": 16}},
            r"qformer_config.encoder_hidden_size \(16\) is not the encoder's width \(24\)",
        ),
    ],
)
def test_a_connector_that_cannot_read_its_encoder_is_refused(key: str, fields: dict, problem: str) -> None:
    values = {**tiny_config().to_dict(), f"{key}_connector_config": fields}
    with pytest.raises(Exception, match=f"{key}_connector_config.{problem}"):
        UniMoEConfig.from_dict(values)


def test_a_stride_does_not_divide_a_lone_token() -> None:
    lone = UniMoEVisionConfig(tower_config=RESNET, num_tokens=1, hidden_size=24)
    problem = UniMoEConnectorConfig(type="pooling", stride=2).misfit(lone)
    assert problem == "stride [2, 2] does not divide the 1 rows and 1 columns of tokens."


def test_heads_of_a_qformer_divide_its_width() -> None:
    values = {**tiny_config().to_dict(), "audio_connector_config": {"type": "qformer", "num_attention_heads": 5}}
    with pytest.raises(
        ValueError, match=r"num_attention_heads \(5\) of a qformer does not divide its hidden_size \(32\)"
    ):
        UniMoEForConditionalGeneration(UniMoEConfig.from_dict(values))


def test_text_only_configuration_has_no_media() -> None:
    config = UniMoEConfig()
    assert config.media == [] and config.num_tokens == {}


def test_num_tokens_count_units() -> None:
    assert tiny_config().num_tokens == {"image": 16, "video": 16, "audio": 3, "speech": 5}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"num_experts": 2, "mlp_bias": True}, "mlp_bias: experts have no bias"),
        ({"num_experts": 2, "num_null_experts": -1}, "num_null_experts is -1"),
        ({"hidden_act": "nope"}, "hidden_act 'nope'"),
        ({"num_experts": 2, "moe_layers": [8]}, "moe_layers names layer 8"),
        ({"clip_qkv": 0}, "clip_qkv is 0; it is positive"),
        ({"qk_norm": True}, "qk_norm"),
        ({"num_attention_heads": 8, "num_key_value_heads": 3}, "must be a multiple"),
    ],
)
def test_impossible_language_models_are_refused(values: dict, problem: str) -> None:
    with pytest.raises(Exception, match=problem):
        UniMoETextConfig(**values)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"stack": 0}, "stack is 0"),
        ({"type": "qformer", "stack": 2}, "stack is for type=mlp; this is a qformer"),
        ({"stride": 2}, "stride is for type=pooling or pixel_shuffle; this is a mlp"),
        ({"type": "mlp", "num_queries": 8}, "num_queries is for type=qformer or blip2_qformer or query_decoder; this"),
        ({"type": "pixel_shuffle", "stride": 2, "output_grid": [2, 2]}, "output_grid is for type=pooling"),
        ({"type": "query_decoder", "decoder_config": WHISPER, "hidden_act": "relu"}, "hidden_act is for type=mlp or"),
        ({"type": "pooling"}, "pooling needs either a stride, e.g. 2, or an output_grid"),
        ({"type": "pooling", "stride": 2, "output_grid": [2, 2]}, "pooling needs either a stride"),
        ({"type": "pooling", "stride": [2, 2, 2]}, r"stride is \[2, 2, 2\]; it is \[rows, columns\]"),
        (
            {"type": "pooling", "output_grid": [0, 2]},
            r"output_grid is \[0, 2\]; it is \[rows, columns\], each at least",
        ),
        ({"type": "pixel_shuffle"}, "pixel_shuffle needs a stride"),
        ({"type": "qformer", "num_queries": 0}, "num_queries is 0; it is at least 1"),
        ({"type": "qformer", "dropout": 1.0}, "dropout is 1.0; it is a share"),
        ({"type": "qformer", "qformer_config": {}}, "qformer_config is for type=blip2_qformer; this is a qformer"),
        ({"type": "blip2_qformer"}, "blip2_qformer needs the qformer_config of a BLIP-2 Q-Former, got None"),
        ({"type": "blip2_qformer", "qformer_config": WHISPER}, "of a BLIP-2 Q-Former, got 'whisper'"),
        ({"type": "blip2_qformer", "qformer_config": {}, "hidden_size": 8}, "hidden_size is for type=mlp or"),
        ({"type": "blip2_qformer", "qformer_config": {"num_attention_heads": 5}}, r"\(5\) does not divide its hidden"),
        (
            {"type": "blip2_qformer", "qformer_config": {"cross_attention_frequency": 0}},
            "frequency is 0; it is at least",
        ),
        ({"type": "blip2_qformer", "qformer_config": {"use_qformer_text_input": True}}, "queries alone go through"),
        ({"type": "blip2_qformer", "qformer_config": {}, "num_queries": 0}, "num_queries is 0; it is at least 1"),
        (
            {"type": "mlp", "num_output_layers": 2},
            "num_output_layers is for type=qformer or blip2_qformer or query_dec",
        ),
        ({"type": "qformer", "num_output_layers": 3}, "num_output_layers is 3; it is 1 or 2"),
        ({"type": "query_decoder"}, "query_decoder needs the decoder_config of a Whisper model, got None"),
        ({"type": "query_decoder", "decoder_config": AST}, "got 'audio-spectrogram-transformer'"),
        ({"type": "query_decoder", "decoder_config": WHISPER, "num_queries": 449}, "449, but decoder_config has 448"),
        ({"type": "perceiver"}, "type"),
    ],
)
def test_impossible_connectors_are_refused(values: dict, problem: str) -> None:
    with pytest.raises(Exception, match=problem):
        UniMoEConnectorConfig(**values)


def test_the_layout_of_uni_moe_2_has_its_tokens() -> None:
    """SigLIP-so400m/384 pooled to 9 x 9, Whisper-large-v3 with 200 queries for 30 s (arXiv 2511.12609)."""
    whisper = {"model_type": "whisper", "d_model": 1280, "num_mel_bins": 128, "max_target_positions": 448}
    config = UniMoEConfig(
        vision_config={"tower_config": {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}},
        speech_config={"tower_config": whisper},
        image_connector_config={"type": "pooling", "stride": 3},
        speech_connector_config={"type": "query_decoder", "decoder_config": whisper},
        image_token_id=1,
        video_token_id=2,
        speech_token_id=3,
        image_max_tiles=9,
        video_frame_rate=1,
        video_max_frames=64,
        video_sound="speech",
        position_type="omni",
    )
    assert config.vision_config.token_grid == [27, 27] and config.media_layout.grids["image"] == [9, 9]
    assert config.num_tokens == {"image": 81, "video": 81, "speech": 200}
