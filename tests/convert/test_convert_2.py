"""The released folder of Uni-MoE-2.0 becomes a model folder: every tensor accounted for, values as by hand."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from reference_folder_2 import LAYERS, QUERIES, TILE, TOKENS, V, config, save_release, save_tokenizer
from safetensors.torch import load_file, save_file
from tiny_processor import item, picture, process, sound, turn
from torch import Tensor
from transformers import AutoModelForMultimodalLM, AutoProcessor
from typer.testing import CliRunner

from unimoe.analysis import verify
from unimoe.checkpoint.loading import load_model, load_processor
from unimoe.cli import app
from unimoe.convert import Conversion, read_release
from unimoe.surgery import Certificate

SPARE = 256 + len(TOKENS)
"""The first id that the release's tokenizer does not use."""


class Released(NamedTuple):
    folder: Path
    weights: dict[str, Tensor]
    conversion: Conversion
    out: Path


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    root = tmp_path_factory.mktemp("two")
    weights = save_release(root / "release")
    conversion = read_release(root / "release")
    conversion.write(root / "out", shard_size="60KB")
    return Released(root / "release", weights, conversion, root / "out")


@pytest.fixture
def folder(released: Released, tmp_path: Path) -> Path:
    """A release that a test may change."""
    return Path(shutil.copytree(released.folder, tmp_path / "release"))


def change(folder: Path, name: str, value: Tensor | None) -> None:
    """Put a tensor into the shard that has it, or the first; None takes it out."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    path = folder / index.get(name, "model-00001-of-00002.safetensors")
    weights = {key: weight.clone() for key, weight in load_file(path).items() if key != name}
    save_file(weights if value is None else {**weights, name: value}, path)


def configure(folder: Path, **fields: Any) -> None:
    """Change fields of config.json; None takes one out."""
    values = {**config(), **fields}
    (folder / "config.json").write_text(json.dumps({name: v for name, v in values.items() if v is not None}))


def test_every_tensor_is_accounted_for_and_files_that_are_not_read_are_named(released: Released) -> None:
    details = Certificate.load(released.out).details
    rows = details["tensors"]
    assert details["release"] == "2.0" and details["not_read"] == ["release/training_args.bin"]
    assert sorted(row["name"] for row in rows) == sorted(released.weights)
    left_out = {row["name"].split(".")[0]: row["why"] for row in rows if row["fate"] == "left out"}
    generators = ("speech_generator", "image_generator", "visual_hidden_fcs", "image_hidden_fcs", "task_hidden_fcs")
    assert left_out.keys() == {*generators, "audio_aligner"} and all(left_out.values())
    assert {row["to"] for row in rows if row["fate"] == "taken"} == released.conversion.weights.keys()


def test_the_folder_loads_with_every_weight_in_bfloat16(released: Released) -> None:
    model, found = AutoModelForMultimodalLM.from_pretrained(released.out, output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.bfloat16 and len(list(released.out.glob("model-*.safetensors"))) > 2


def test_weights_are_those_worked_out_by_hand(released: Released) -> None:
    state, weights = load_model(released.out).state_dict(), released.weights
    for layer in range(LAYERS):
        theirs, ours = f"model.layers.{layer}.", f"model.language_model.layers.{layer}."
        for name in ("self_attn.k_proj.bias", "self_attn.o_proj.weight", "input_layernorm.weight"):
            assert state[ours + name].equal(weights[theirs + name])
        assert state[f"{ours}mlp.router.weight"].equal(weights[f"{theirs}mlp.gate.weight"].float())
        routed = f"{theirs}mlp.dynamic_real_moe.deepspeed_moe.experts.deepspeed_experts.3."
        gate, up, down = (weights[f"{routed}{part}_proj.weight"] for part in ("gate", "up", "down"))
        assert state[f"{ours}mlp.experts.gate_up_proj"][3].equal(torch.cat([gate, up]))
        assert state[f"{ours}mlp.experts.down_proj"][3].equal(down)
        for part, axis in {"gate": 0, "up": 0, "down": 1}.items():
            both = [weights[f"{theirs}mlp.fixed_real_moe.{expert}.{part}_proj.weight"] for expert in range(2)]
            assert state[f"{ours}mlp.shared_expert.{part}_proj.weight"].equal(torch.cat(both, dim=axis))
    tower, inner = "vision_tower.vision_tower.vision_model", "encoder.layers.1.mlp.fc1.weight"
    names = {
        f"{tower}.{inner}": f"encoders.image.tower.{inner}",
        "audio_tower.audio_tower.conv2.weight": "encoders.speech.tower.conv2.weight",
        "audio_aligner.decoder.audio_decoder.layers.1.fc2.bias": "connectors.speech.decoder.layers.1.fc2.bias",
        "audio_aligner.projector.weight": "connectors.speech.output_proj.weight",
        "vision_aligner.2.weight": "connectors.image.linear_2.weight",
    }
    assert all(state[f"model.{ours}"].equal(weights[theirs]) for theirs, ours in names.items())
    assert state["model.connectors.speech.queries"].equal(weights["audio_aligner.query_tokens"][0])


def test_placeholders_take_spare_rows_and_are_never_generated(released: Released) -> None:
    model = load_model(released.out)
    ids = [getattr(model.config, f"{key}_token_id") for key in ("image", "video", "audio", "speech")]
    assert ids == model.generation_config.suppress_tokens == list(range(SPARE, SPARE + 4))
    assert model.get_input_embeddings().weight.equal(released.weights["model.embed_tokens.weight"])
    with torch.no_grad():
        model.lm_head.weight.zero_()
    answer = model.generate(input_ids=torch.tensor([[65, 66]]), max_new_tokens=1, eos_token_id=None)
    assert answer[0, -1] not in ids


def test_pictures_clips_and_sounds_pass_through_generate(released: Released) -> None:
    model, processor = load_model(released.out, dtype="float32"), AutoProcessor.from_pretrained(released.out)
    clip = item("video", {"frames": [picture(shade) for shade in range(0, 250, 25)], "fps": 1.0})
    inputs = process(
        processor, [turn(item("image", picture()), clip, item("speech", sound()), "what?")], add_generation_prompt=True
    )
    kinds, counts = inputs["mm_token_type_ids"].unique(return_counts=True)
    assert kinds.tolist() == [0, 1, 2, 4] and counts.tolist()[1:] == [2 * 4, 10 * 4, QUERIES]
    answer = model.generate(**inputs, max_new_tokens=3, eos_token_id=None)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 3


def test_answers_depend_on_the_inputs_alone(released: Released) -> None:
    model = load_model(released.out, dtype="float32")
    assert all(check.passed for check in verify(model, load_processor(str(released.out), model.config)))


def test_the_prompt_is_chatml_with_tokens_around_media_and_the_releases_own_system_turn(released: Released) -> None:
    processor = AutoProcessor.from_pretrained(released.out)
    user = {"role": "user", "content": [{"type": kind} for kind in ("image", "video", "speech")]}
    user["content"].append({"type": "text", "text": "so?"})
    media = "<|vision_start|><|image|><|vision_end|>\n<|vision_start|><|video|><|vision_end|>\n"
    media += "<|audio_start|><|speech|><|audio_end|>\n"
    turns = f"<|im_start|>user\n{media}so?<|im_end|>\n<|im_start|>assistant\n"
    system = '<|im_start|>system\nYou are a "helpful" one.<|im_end|>\n'
    text = processor.apply_chat_template([user], add_generation_prompt=True)
    assert text == system + turns
    own = processor.apply_chat_template([{"role": "system", "content": "hi"}, user], add_generation_prompt=True)
    assert own == f"<|im_start|>system\nhi<|im_end|>\n{turns}"
    ids = processor.tokenizer(turns)["input_ids"]
    start, end, seen, seen_end, heard, heard_end = (256 + number for number in (1, 2, 3, 4, 7, 8))
    line, letters = processor.tokenizer("\n")["input_ids"], processor.tokenizer("user\n")["input_ids"]
    expected = [start, *letters, seen, SPARE, seen_end, *line, seen, SPARE + 1, seen_end, *line]
    expected += [heard, SPARE + 3, heard_end, *line, *processor.tokenizer("so?")["input_ids"], end, *line, start]
    assert ids == [*expected, *processor.tokenizer("assistant\n")["input_ids"]]
    assert load_model(released.out).generation_config.eos_token_id == [end, 256]


def test_settings_are_those_of_the_release(released: Released) -> None:
    ours = load_model(released.out).config
    text, layout = ours.text_config, ours.media_layout
    assert (text.router_type, text.router_top_p, text.num_experts_per_tok) == ("top_p", 0.7, 5)
    assert (text.combine_weights, text.sparsemixer_epsilon, text.router_jitter_noise) == ("near_tie", 0.2, 0.03)
    assert ours.vision_config.feature_layer == ours.vision_config.tower_config.num_hidden_layers == 2
    assert layout.image_grids == [[1, 1], [2, 1], [1, 2], [2, 2]] and layout.grids["image"] == [2, 2]
    assert (layout.video_frame_rate, layout.video_max_frames, layout.sound_group_tokens) == (1, 48, 20)
    processor = AutoProcessor.from_pretrained(released.out)
    assert processor.image_processor.size == {"height": TILE, "width": TILE}
    assert list(processor.image_processor.image_std) == [0.4] * 3
    assert (processor.speech_feature_extractor.max_windows, processor.speech_feature_extractor.feature_size) == (
        3,
        128,
    )


def test_without_top_p_each_token_has_so_many_experts(folder: Path) -> None:
    configure(folder, mlp_dynamic_top_p=0, mlp_dynamic_top_k=2, mlp_fixed_expert_num=2)
    text = read_release(folder).config.text_config
    assert (text.router_type, text.num_experts_per_tok, text.combine_weights) == ("top_k", 2, "near_tie")


@pytest.mark.parametrize(
    "pinpoints",
    [[[TILE, TILE], [2 * TILE, TILE]], f"[({TILE}, {TILE}), ({2 * TILE}, {TILE})]", "(1x1),...,(2x1)"],
)
def test_grids_are_read_from_pixels_their_text_or_a_range_of_tiles(folder: Path, pinpoints: Any) -> None:
    configure(folder, image_grid_pinpoints=pinpoints)
    assert read_release(folder).config.image_grids == [[1, 1], [1, 2]]


def test_what_a_towers_class_has_by_default_need_not_be_stated(folder: Path) -> None:
    fields = {name: value for name, value in config()["vision_config"].items() if name != "num_attention_heads"}
    configure(folder, vision_config=fields)
    assert read_release(folder).config.vision_config.tower_config.num_attention_heads == 16


Q = "model.layers.1.self_attn.q_proj.weight"
FIXED = "model.layers.0.mlp.fixed_real_moe.1.down_proj.weight"
LAST = "vision_tower.vision_tower.vision_model.encoder.layers.2.mlp.fc1.bias"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (Q, None, "lack model.language_model.layers.1.self_attn.q_proj.weight"),
        (FIXED, None, r"lack part 1 of .*layers.0.mlp.shared_expert.down_proj.weight; .*fixed_real_moe.0.* is there"),
        ("model.stranger.weight", torch.ones(2), "stranger.weight, for which Uni-MoE-2.0 has no place"),
        (Q, torch.ones(5), r"q_proj.weight in .* is \(5,\)"),
        (FIXED, torch.ones(24, 7), r"fixed_real_moe.* is \(24, [78]\), but .*fixed_real_moe.* is \(24, [78]\)"),
        (LAST, torch.ones(16), "layers.2.mlp.fc1.bias in .* has no place"),
    ],
)
def test_a_tensor_that_is_missing_extra_or_of_another_shape_is_named(
    folder: Path, name: str, value: Tensor | None, said: str
) -> None:
    change(folder, name, value)
    with pytest.raises(ValueError, match=said):
        read_release(folder)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (
            "model_type",
            "grin",
            "no release that is known.*'grin'.*Known are.*Uni-MoE-2.0 .model_type grin_qwen2_vl or",
        ),
        ("mlp_dynamic_null_expert_num", None, "mlp_dynamic_null_expert_num None; a number is needed"),
        ("audio_config", None, "audio_config None; an object is needed"),
        ("whisper_query_tokens_size", 100, "whisper_query_tokens_size 100; 200 can be converted"),
        ("video_pixel_upbound", None, f"video_pixel_upbound None; {TILE} can be converted"),
        ("rope_scaling", {"type": "yarn"}, "rope_scaling .*yarn.*; mrope"),
        ("image_grid_pinpoints", [[TILE, 50]], f"multiples of the tile's {TILE} pixels"),
        ("image_grid_pinpoints", [[TILE, 2 * TILE]], "lack a single tile"),
        ("tie_word_embeddings", True, "tie_word_embeddings True; False can be converted"),
    ],
)
def test_a_configuration_that_lacks_a_field_or_says_what_cannot_be_had_is_refused(
    folder: Path, field: str, value: Any, said: str
) -> None:
    configure(folder, **{field: value})
    with pytest.raises(ValueError, match=said):
        read_release(folder)


def test_options_of_v1_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="one folder, towers included: leave out vision and base"):
        read_release(folder, vision="clip", base=folder)


def test_a_tokenizer_without_the_tokens_around_media_or_another_template_is_refused(folder: Path) -> None:
    save_tokenizer(folder, TOKENS[:7])
    with pytest.raises(ValueError, match=r"no token <\|audio_start\|> and <\|audio_end\|>"):
        read_release(folder)
    save_tokenizer(folder, template="{{ messages[0]['content'] }}")
    with pytest.raises(ValueError, match="no ChatML"):
        read_release(folder)


def test_without_a_tokenizer_placeholders_follow_the_vocabulary(folder: Path) -> None:
    for path in (*folder.glob("tokenizer*"), *folder.glob("chat_template*")):
        path.unlink()
    found = read_release(folder)
    assert found.processor is None and found.vocabulary == (V, V + 4)


def test_the_index_says_which_shards_are_read_and_one_file_is_read_without_it(
    released: Released, folder: Path
) -> None:
    save_file({Q: torch.ones(1)}, folder / "model-00001-of-00009.safetensors")
    assert "release/model-00001-of-00009.safetensors" in read_release(folder).unread
    for path in folder.glob("model*"):
        path.unlink()
    save_file(released.weights, folder / "model.safetensors")
    assert {row.file for row in read_release(folder).rows} == {"release/model.safetensors"}


def test_the_command_needs_the_folder_alone_and_says_what_it_does_not_read(folder: Path) -> None:
    out = folder.parent / "out"
    dry = CliRunner().invoke(app, ["convert", str(folder), str(out), "--dry-run"])
    assert dry.exit_code == 0 and "Uni-MoE-2.0" in dry.output and "token_drop" in dry.output, dry.output
    assert "not read: release/training_args.bin" in dry.output and not out.exists()
    done = CliRunner().invoke(app, ["convert", str(folder), str(out)])
    assert done.exit_code == 0 and (out / "certificate.json").is_file(), done.output
