"""The recipes at the reference's scales: planned where none of their parts are, and trained with tiny parts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from convert.reference_folder_2 import save_release as save_release_2
from convert.reference_folders import save_release
from launch import ROOT
from safetensors.torch import load_file
from tiny import TEXT, WHISPER
from tiny_processor import byte_tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, CLIPImageProcessor, WhisperFeatureExtractor
from typer.testing import CliRunner

from training.__main__ import app
from training.config.recipe import load_recipe, merge
from training.planning import models
from training.planning.models import DescribedRecipe, where_described
from training.stage.run import run_stage
from unimoe import BeatsFeatureExtractor, UniMoEConfig
from unimoe.convert import read_release
from unimoe.errors import ConfigError
from unimoe.presets import text_config

STAGES = ROOT / "configs" / "stages"
TOKENS = {
    "uni_moe_4e": {"image": 576, "video": 576, "audio": 50, "speech": 50},
    "uni_moe_8e": {"image": 576, "video": 576, "audio": 50, "speech": 50},
    "uni_moe_2": {"image": 81, "video": 81, "speech": 200},
}
"""Tokens of a picture, a frame or a clip, and 30 s of sound or speech."""


@pytest.fixture(autouse=True)
def _without_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a cache of the Hub nor a folder of models is at hand."""
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def described(recipe: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, UniMoEConfig]:
    """Configuration of the model that each stage begins with."""
    monkeypatch.setattr(models, "model_bytes", lambda config: 0)
    described, configs = DescribedRecipe(), {}
    for name, stage in load_recipe(STAGES / f"{recipe}.yaml").stages.items():
        start = described.begin(stage)
        described.end(stage, start)
        assert start.absent, "the parts were not to be had"
        configs[name] = start.config
    return configs


@pytest.mark.parametrize(
    ("recipe", "preset", "ours"),
    [
        # Ours besides: the z-loss, ids of tokens, since recipes add placeholders and ends of turns, and losses of 2.0,
        # which a stage lets fall.
        ("uni_moe_4e", "uni-moe-4e-speech", set()),
        ("uni_moe_8e", "uni-moe-8e", {"expert_type", "expert_rank", "expert_lora_alpha"}),
        ("uni_moe_2", "uni-moe-2.0", {"router_aux_loss_coef"}),
    ],
)
def test_every_stage_is_described_without_the_parts_and_the_mixture_is_the_preset(
    recipe: str, preset: str, ours: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = described(recipe, monkeypatch)
    assert {name: config.num_tokens for name, config in configs.items()} == dict.fromkeys(configs, TOKENS[recipe])
    mixed, expected = configs["mixed"].text_config.to_dict(), text_config(preset).to_dict()
    ours |= {"router_z_loss_coef", "vocab_size", "dtype", *(f"{name}_token_id" for name in ("bos", "eos", "pad"))}
    assert not {name for name in expected.keys() - ours if mixed.get(name) != expected[name]}


def test_a_part_that_is_there_describes_itself(tmp_path: Path) -> None:
    name = "lmsys/vicuna-7b-v1.5"
    assert where_described(name) == str(models.PARTS / name)
    (tmp_path / name).mkdir(parents=True)
    assert where_described(name) == name
    assert where_described("lmsys/another") == "lmsys/another" and where_described("../stages") == "../stages"


def test_a_part_that_nothing_describes_is_refused() -> None:
    stage = load_recipe(STAGES / "uni_moe_4e.yaml", ["variables.speech=openai/whisper-none"]).stages["align"]
    with pytest.raises(ConfigError, match=r"speech openai/whisper-none: "):
        DescribedRecipe().begin(stage)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TOKENS)
def test_a_recipe_is_planned_without_its_parts(recipe: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    result = CliRunner().invoke(app, ["plan", str(STAGES / f"{recipe}.yaml"), "--json", str(file)])
    assert result.exit_code == 0, result.output
    planned = json.loads(file.read_text())
    assert [stage["stage"] for stage in planned] == list(load_recipe(STAGES / f"{recipe}.yaml").stages)
    for stage in planned:
        assert stage["parameters"]["total"] > 7e9 and stage["memory"]["total"] > 4 * 7e9 and stage["absent_parts"]
    words = ("parameters", "memory of each of 1", "steps", "parts that are not here", "configs/parts")
    assert all(word in result.output for word in words)
    if recipe == "uni_moe_2":
        mixed = next(stage for stage in planned if stage["stage"] == "mixed")
        assert f"{mixed['parameters']['total'] / 1e9:.1f}" == "28.1"  # as released, in whole billions 28


SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BEATS = {
    **SMALL,
    "model_type": "unimoe_beats",
    "mask_padding": True,
    "max_length": 98,
    "patch_embedding_size": 8,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
QFORMER = {**SMALL, "encoder_hidden_size": 16, "cross_attention_frequency": 2}
TOWERS = {
    "uni_moe_4e": {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, **SMALL},
    "uni_moe_8e": {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, **SMALL},
    "uni_moe_2": {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14, **SMALL},
}


def save_tiny_parts(recipe: str, folder: Path) -> dict[str, str]:
    """Parts with narrow layers, and pictures, patches and bands of the recipe's; windows of one second."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(placeholders=False, eos_token="</s>")
    kind = "qwen2" if recipe == "uni_moe_2" else "llama"
    text = AutoConfig.for_model(kind, **{**TEXT, "vocab_size": len(tokenizer)})
    AutoModelForCausalLM.from_config(text).save_pretrained(folder / "language")
    tokenizer.save_pretrained(folder / "language")
    whisper = {**WHISPER, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 64}
    bands = 128 if recipe == "uni_moe_2" else 80
    whisper |= {"num_mel_bins": bands, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    parts = {"vision": TOWERS[recipe], "speech": whisper, "audio": BEATS}
    for name, values in parts.items():
        AutoModel.from_config(AutoConfig.for_model(**values)).save_pretrained(folder / name)
    side = TOWERS[recipe]["image_size"]
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        folder / "vision"
    )
    WhisperFeatureExtractor(feature_size=bands, chunk_length=1).save_pretrained(folder / "speech")
    BeatsFeatureExtractor(n_samples=16_000, max_windows=20).save_pretrained(folder / "audio")
    return {name: str(folder / name) for name in ("language", *parts)}


def test_the_first_stage_of_eight_experts_is_that_of_four() -> None:
    four, eight = (load_recipe(STAGES / f"uni_moe_{name}.yaml").stages["align"].model_dump() for name in ("4e", "8e"))
    assert {**eight, "output": None} == {**four, "output": None}


@pytest.mark.parametrize("recipe", ["uni_moe_4e", "uni_moe_2"])
def test_the_first_stage_trains_two_steps_with_tiny_parts(recipe: str, make_stage, workspace, tmp_path: Path) -> None:
    align = load_recipe(STAGES / f"{recipe}.yaml").stages["align"]
    build: dict[str, Any] = align.model_dump()["start"]["build"]
    parts = save_tiny_parts(recipe, tmp_path / "parts")
    build |= {name: path for name, path in parts.items() if build[name]}
    if "audio" in build["connectors"]:
        build = merge(build, {"connectors": {"audio": {"qformer_config": QFORMER}}})
    tasks = ["image_kind", "spoken_word", *(["sound_kind"] if build["audio"] else [])]
    config = make_stage(
        start={"build": build},
        train=align.train.model_dump(),
        data={
            "mixture": [str(workspace / "data" / f"{task}_train.jsonl") for task in tasks],
            "max_length": align.data.max_length,
            "packing": align.data.packing,
        },
        trainer={"max_steps": 2, "per_device_train_batch_size": 2, "activation_checkpointing": True, "bf16": True},
    )
    trained = UniMoEConfig.from_pretrained(run_stage(config, name="align"))
    assert trained.num_tokens == TOKENS[recipe]
    wanted = build["media"]
    assert {name: getattr(trained, name) for name in wanted} == wanted


def convert_tiny(release: str, folder: Path) -> str:
    """Folder of the model that a release of random weights becomes."""
    if release == "2.0":
        save_release_2(folder / "release")
        conversion = read_release(folder / "release")
    else:
        save_release(release, folder)
        towers = {"vision": folder / "clip", "speech": folder / "whisper"}
        conversion = read_release(folder / "tuned", base=folder / "base", **towers)
    conversion.write(folder / "start", dtype=torch.float32)
    return str(folder / "start")


@pytest.mark.parametrize(("release", "recipe", "stage"), [("v1-speech", "4e", "mixed"), ("2.0", "2", "anneal")])
def test_a_converted_release_goes_on_with_the_last_stage(
    release: str, recipe: str, stage: str, make_stage, workspace, tmp_path: Path
) -> None:
    last = load_recipe(STAGES / f"uni_moe_{recipe}.yaml").stages[stage]
    start = convert_tiny(release, tmp_path)
    config = make_stage(
        start=start,
        train={**last.train.model_dump(), "warm_up": None},
        data={
            "mixture": [str(workspace / "data" / f"{task}_train.jsonl") for task in ("image_kind", "spoken_word")],
            "packing": last.data.packing,
            "max_length": last.data.max_length,
        },
        trainer={"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3},
    )
    trained = run_stage(config, name=stage)
    before, after = (load_file(next(Path(folder).glob("*.safetensors"))) for folder in (start, trained))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if "encoders" in name]
    for part in ("connectors.image", "connectors.speech", "experts.0.gate_proj", "self_attn.q_proj"):
        assert [name for name in changed if part in name], part
