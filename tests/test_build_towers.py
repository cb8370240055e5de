"""Towers of many kinds, saved as users have them, become encoders of a model that is saved, loaded and answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny import AST, TEXT
from tiny_processor import byte_tokenizer, image_processor, item, picture, process, sound, turn
from transformers import ASTFeatureExtractor, AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel
from typer.testing import CliRunner

from unimoe import BeatsFeatureExtractor, UniMoEForConditionalGeneration
from unimoe.build import build_model
from unimoe.checkpoint.loading import load_model, load_processor
from unimoe.cli import app

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
BEATS = {
    "model_type": "unimoe_beats",
    "max_length": 64,
    "num_mel_bins": 32,
    "patch_size": 8,
    "patch_embedding_size": 6,
    "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 2,
    **SMALL,
}
HEADLESS = {"img_size": 32, "class_token": False, "global_pool": "avg"}
SIGLIP = {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, **SMALL}


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    tokenizer = byte_tokenizer(placeholders=False)
    config = AutoConfig.for_model("qwen3", **{**TEXT, "vocab_size": len(tokenizer), "head_dim": 8})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tower(folder: Path, config: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(1)
    tower = AutoModel.from_config(AutoConfig.for_model(**config)).eval()
    tower.save_pretrained(folder)
    return tower


def answer(model: UniMoEForConditionalGeneration, processor: Any, *media: Any) -> list[int]:
    inputs = process(processor, [turn(*media, "what is this?")], add_generation_prompt=True)
    return model.generate(**inputs, max_new_tokens=4, do_sample=False)[0].tolist()


@pytest.mark.parametrize(
    ("config", "extractor", "tokens", "seconds"),
    [
        (BEATS, BeatsFeatureExtractor(max_length=64, num_mel_bins=32), 32, 0.64),
        (AST, ASTFeatureExtractor(max_length=56, num_mel_bins=32), 10, 0.56),
    ],
    ids=["beats", "ast"],
)
def test_a_tower_for_sounds_is_built_in_and_answers_after_loading(
    config: dict[str, Any], extractor: Any, tokens: int, seconds: float, language: Path, tmp_path: Path
) -> None:
    tower = save_tower(tmp_path / "audio", config)
    extractor.save_pretrained(tmp_path / "audio")
    arguments = ["build", "--language", str(language), "--audio", str(tmp_path / "audio"), "--out"]
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    model = load_model(tmp_path / "model")
    processor = load_processor(tmp_path / "model", model.config)
    assert type(processor.audio_feature_extractor) is type(extractor)
    assert model.config.audio_config.num_tokens == model.config.num_tokens["audio"] == tokens
    loaded = model.model.encoders["audio"].tower.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tower.state_dict().items())
    inputs = process(processor, [turn(item("audio", sound(2.5 * seconds)), "what is this?")])
    assert inputs["audio_features"].shape[0] == 3, "windows"
    heard = model.model.get_audio_features(inputs["audio_features"]).last_hidden_state
    assert torch.equal(heard[1], tower(inputs["audio_features"]).last_hidden_state[:, -tokens:][1])
    built, its_processor = build_model(language, audio=tmp_path / "audio")
    medium = item("audio", sound(seconds))
    assert answer(model, processor, medium) == answer(built, its_processor, medium)


@pytest.mark.parametrize(
    ("config", "tokens", "prefix"),
    [
        ({"model_type": "timm_wrapper", "architecture": "test_vit", "model_args": {"img_size": 32}}, 4, 1),
        ({"model_type": "timm_wrapper", "architecture": "test_vit", "model_args": HEADLESS}, 4, 0),
        ({"model_type": "timm_wrapper", "architecture": "test_convnext"}, 1, 0),
        (SIGLIP, 16, 0),
    ],
    ids=["timm-vit", "timm-vit-without-class-token", "timm-cnn", "siglip"],
)
def test_an_image_tower_is_built_in_and_answers_after_loading(
    config: dict[str, Any], tokens: int, prefix: int, language: Path, tmp_path: Path
) -> None:
    tower = save_tower(tmp_path / "vision", config)
    image_processor().save_pretrained(tmp_path / "vision")
    built, its_processor = build_model(language, vision=tmp_path / "vision")
    vision = built.config.vision_config
    assert (vision.num_tokens, vision.num_prefix_tokens) == (tokens, prefix)
    pixels = torch.randn(2, 3, 32, 32)
    states = tower(pixels).last_hidden_state
    states = states.flatten(2).transpose(1, 2) if states.dim() == 4 else states[:, prefix:]
    assert torch.equal(built.model.get_image_features(pixels).last_hidden_state, states)
    built.save_pretrained(tmp_path / "model")
    its_processor.save_pretrained(tmp_path / "model")
    model = load_model(tmp_path / "model")
    processor = load_processor(tmp_path / "model", model.config)
    medium = item("image", picture())
    assert answer(model, processor, medium) == answer(built, its_processor, medium)


def test_a_timm_vit_as_the_hub_keeps_it_is_built_in(language: Path, tmp_path: Path) -> None:
    """No model_type, no preprocessor_config.json, timm's own names."""
    tower = timm.create_model("test_vit", num_classes=0).eval()
    save_file(tower.state_dict(), tmp_path / "model.safetensors")
    settings = {
        "crop_pct": 0.95,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    pretrained = {
        "tag": "r160_in1k",
        "input_size": [3, 160, 160],
        "fixed_input_size": True,
        "pool_size": None,
        **settings,
    }
    config = {"architecture": "test_vit", "num_classes": 0, "num_features": 64, "pretrained_cfg": pretrained}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model, processor = build_model(language, vision=tmp_path)
    inputs = process(processor, [turn(item("image", picture()), "what is this?")])
    assert inputs["pixel_values"].shape == (1, 3, 160, 160) and model.config.num_tokens["image"] == 100
    with torch.no_grad():
        tokens = model.model.get_image_features(inputs["pixel_values"]).last_hidden_state
        assert torch.equal(tokens, tower.forward_features(inputs["pixel_values"])[:, 1:])


CLIP = {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, **SMALL}


def test_the_command_chooses_layers_and_class_token(language: Path, tmp_path: Path) -> None:
    tower = save_tower(tmp_path / "vision", CLIP)
    image_processor().save_pretrained(tmp_path / "vision")
    arguments = ["build", "--language", str(language), "--vision", str(tmp_path / "vision"), "--out"]
    chosen = ["--encoder", "image.feature_layer=[-2,0]", "--encoder", "image.keep_prefix=true"]
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "model"), *chosen])
    assert result.exit_code == 0, result.output
    model = load_model(tmp_path / "model")
    vision = model.config.vision_config
    assert (vision.num_tokens, vision.hidden_size, vision.feature_layer) == (17, 32, [-2, 0])
    pixels = torch.randn(1, 3, 32, 32)
    states = tower(pixels, output_hidden_states=True).hidden_states
    expected = torch.cat([states[-2], states[0]], dim=-1)
    assert torch.equal(model.model.get_image_features(pixels).last_hidden_state, expected)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("image.feature_layer=9", "feature_layer 9: CLIPVisionModel has 3 hidden states"),
        ("image.num_tokens=9", "encoder image: 'num_tokens' cannot be given; feature_layer, keep_prefix, num_prefix"),
        ("audio.feature_layer=1", "encoder audio: there is no such encoder; this model takes image"),
    ],
)
def test_the_command_refuses_what_an_encoder_cannot_be(
    field: str, message: str, language: Path, tmp_path: Path
) -> None:
    save_tower(tmp_path / "vision", CLIP)
    image_processor().save_pretrained(tmp_path / "vision")
    arguments = ["build", "--language", str(language), "--vision", str(tmp_path / "vision"), "--encoder", field]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "model")])
    assert result.exit_code == 2 and message in " ".join(result.output.split())
