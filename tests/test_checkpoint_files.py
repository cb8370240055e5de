"""A model folder that others wrote: what would mislead, be fetched, ask or take memory is refused, the place named."""

import builtins
import json
import os
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from pairwise import pairs_in_fast_tests
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor
from typer.testing import CliRunner

from unimoe import UniMoEConfig, UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.checkpoint.loading import load_model, load_processor
from unimoe.cli import app
from unimoe.errors import UniMoEError
from unimoe.tiny import save_tiny_checkpoint

DOORS = {
    "load_model": load_model,
    "from_pretrained": UniMoEForConditionalGeneration.from_pretrained,
    "the Auto class": AutoModelForMultimodalLM.from_pretrained,
}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def folder(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "outer" / "model"))


def shard(folder: Path, name: str) -> None:
    """Make a folder of shards, whose index names the one shard so."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


OUTSIDE = [
    "../model.safetensors",
    "{root}/model.safetensors",
    "a/../../model.safetensors",
    "link.safetensors",
    "sub/x",
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_that_leads_out_of_its_folder_is_refused(folder, name, door) -> None:
    root = folder.parent
    name = name.format(root=root)
    shutil.copy(folder / "model.safetensors", root / "model.safetensors")
    shutil.copy(folder / "model.safetensors", root / "x")
    (folder / "link.safetensors").symlink_to(root / "model.safetensors")
    (folder / "sub").symlink_to(root, target_is_directory=True)
    shard(folder, name)
    with pytest.raises(UniMoEError, match=r"index\.json names .* outside of the folder"):
        DOORS[door](folder)


def test_an_index_of_the_cache_of_the_hub_is_followed_to_its_blobs(folder) -> None:
    shard(folder, "model-00001-of-00001.safetensors")
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    snapshot = folder.parent / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    assert load_model(snapshot)


@pytest.mark.parametrize(
    "values", [[], 5, {"weight_map": {}}, {"weight_map": []}, {"weight_map": {"a": 5}}, {"weight_map": {"a": None}}]
)
def test_an_index_that_is_none_is_refused(folder, values) -> None:
    shard(folder, "x")
    (folder / "model.safetensors.index.json").write_text(json.dumps(values))
    for door in DOORS.values():
        with pytest.raises(UniMoEError, match=r"model\.safetensors\.index\.json"):
            door(folder)


VALUES = {
    "NaN": lambda weight: weight.index_fill(0, torch.tensor([0]), float("nan")),
    "infinity": lambda weight: weight.index_fill(0, torch.tensor([0]), float("-inf")),
    "complex": lambda weight: weight.to(torch.complex64),
    "bool": lambda weight: weight > 0,
}


NAMES = ("lm_head.weight", "model.encoders.image.tower.layernorm.bias")


@pytest.mark.parametrize(("kind", "name", "door"), pairs_in_fast_tests(VALUES, NAMES, DOORS))
def test_weights_that_are_no_numbers_are_refused_by_name(folder, kind, name, door) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights[name] = VALUES[kind](weights[name])
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UniMoEError, match=name):
        DOORS[door](folder)


KINDS = (torch.bool, torch.complex64, torch.int8, torch.uint8, torch.int64)


def save_as(folder: Path, name: str, kind: torch.dtype, file: str) -> None:
    """Give one weight another kind, and save all in one file or as shards of pickles."""
    weights = load_file(folder / "model.safetensors")
    weights[name] = weights[name].to(kind)
    (folder / "model.safetensors").unlink()
    if file.endswith(".safetensors"):
        save_file(weights, folder / file, metadata={"format": "pt"})
    else:
        torch.save(weights, folder / file)
    if "-of-" in file:
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, file)}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model-00001-of-00001.bin")
SAVED = pairs_in_fast_tests(WEIGHT_FILES, KINDS, ("lm_head.weight", "an expert"), DOORS)


@pytest.mark.parametrize(("file", "kind", "name", "door"), SAVED, ids=str)
def test_weights_saved_as_another_kind_of_value_are_refused_in_every_kind_of_file(
    folder, file, kind, name, door
) -> None:
    if name == "an expert":
        name = next(name for name in load_file(folder / "model.safetensors") if "experts.3.down_proj" in name)
    save_as(folder, name, kind, file)
    with pytest.raises(UniMoEError, match=rf"{name} in {file} is"):
        DOORS[door](folder)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16], ids=str)
def test_weights_saved_as_another_float_are_loaded(folder, file, kind) -> None:
    save_as(folder, "lm_head.weight", kind, file)
    assert load_model(folder)


def test_an_expert_that_is_no_number_is_refused_too(folder) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "experts.3.down_proj" in name)
    weights[name][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UniMoEError, match=r"experts\.down_proj holds NaN"):
        load_model(folder)


@pytest.mark.parametrize("text", ['"image_token_id": 1, "image_token_id": 2,', '"initializer_range": NaN,'])
def test_a_configuration_that_says_two_things_or_no_number_is_refused_by_key(folder, text) -> None:
    """But not by AutoConfig alone: it reads the file itself, and keeps the last of two values."""
    path = folder / "config.json"
    path.write_text(path.read_text().replace("{", "{" + text, 1))
    for door in (*DOORS.values(), UniMoEConfig.from_pretrained):
        with pytest.raises(UniMoEError, match=r"config\.json.*(image_token_id|NaN)"):
            door(folder)


DOUBLED = ("tokenizer_config.json", "tokenizer.json", "processor_config.json", "special_tokens_map.json")
PROCESSORS = {"the class": UniMoEProcessor.from_pretrained, "AutoProcessor": AutoProcessor.from_pretrained}


@pytest.mark.parametrize("door", PROCESSORS)
@pytest.mark.parametrize("file", DOUBLED)
def test_a_file_of_the_processor_that_says_two_things_is_refused_by_key(folder, file, door) -> None:
    path = folder / file
    text = path.read_text() if path.exists() else "{}"
    path.write_text('{"padding_side": "left", "padding_side": "right"' + (", " if text != "{}" else "") + text[1:])
    for load in (PROCESSORS[door], load_model):
        with pytest.raises(UniMoEError, match=rf"{file}: padding_side: the key is given twice"):
            load(folder)


def test_files_that_transformers_does_not_read_may_hold_anything(folder) -> None:
    (folder / "train_log.json").write_text('{"loss": 1}\n{"loss": NaN}\n')
    (folder / "notes.json").write_bytes("Größe".encode("latin-1"))
    (folder / "faiss.index.json").write_text("[]")
    os.mkfifo(folder / "pipe.json")
    for door in (*DOORS.values(), *PROCESSORS.values()):
        assert door(folder)


PIPES = ("generation_config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin", "chat_template.jinja")


@pytest.mark.parametrize("file", PIPES)
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(folder, file) -> None:
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)
    for door in (load_model, *PROCESSORS.values(), UniMoEForConditionalGeneration.from_pretrained):
        with pytest.raises(UniMoEError, match=rf"{file} is no file, but a pipe"):
            door(folder)


@pytest.mark.parametrize("door", ["load_model", "from_pretrained"])
def test_a_configuration_that_is_a_pipe_is_not_waited_for(folder, door) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(UniMoEError, match=r"config\.json"):
        DOORS[door](folder)


def edit(folder: Path, **values) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in values.items():
        target = config
        *parents, last = key.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(json.dumps(config))
    return folder


ABSURD = [
    {"text_config__num_hidden_layers": 10**7},
    {"text_config__num_experts": 10**9},
    {"text_config__hidden_size": 10**12},
    {"text_config__vocab_size": 10**15},
    {"text_config__num_attention_heads": 10**18},
    {"text_config__moe_intermediate_size": 10**40},
    {"text_config__moe_layers": [10**9]},
    {"text_config__num_null_experts": 10**9},
    {"vision_config__tower_config__num_hidden_layers": 10**7},
    {"vision_config__tower_config__image_size": 10**8},
    {"vision_config__tower_config__num_labels": 10**9},
    {"vision_config__num_tokens": 10**9},
    {"speech_config__tower_config__max_source_positions": 10**9},
    {"audio_config__tower_config__hidden_size": 10**9},
    {"image_connector_config": {"type": "qformer", "num_queries": 10**9}},
    {"image_connector_config": {"type": "blip2_qformer", "qformer_config": {"num_hidden_layers": 10**7}}},
    {"num_labels": 10**9},
]


@pytest.mark.parametrize("values", ABSURD, ids=lambda values: next(iter(values)))
def test_an_absurd_configuration_is_refused_before_memory_is_taken(folder, values) -> None:
    edit(folder, **values)
    config = json.loads((folder / "config.json").read_text())
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    doors = [
        *DOORS.values(),
        AutoConfig.from_pretrained,
        UniMoEConfig.from_pretrained,
        lambda _: UniMoEConfig(**config),
    ]
    for door in doors:
        with pytest.raises(UniMoEError):
            door(folder)
    result = CliRunner().invoke(app, ["info", str(folder)])
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert time.perf_counter() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


TEXT_SIZES = (
    "hidden_size",
    "head_dim",
    "num_key_value_heads",
    "intermediate_size",
    "moe_intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
)
TOWER_SIZES = (
    "hidden_size",
    "intermediate_size",
    "patch_size",
    "num_channels",
    "num_attention_heads",
    "num_hidden_layers",
)
WHISPER_SIZES = ("d_model", "num_mel_bins", "encoder_ffn_dim", "encoder_attention_heads", "max_source_positions")
SIZES = [
    *(f"text_config__{name}" for name in TEXT_SIZES),
    *(f"vision_config__tower_config__{name}" for name in TOWER_SIZES),
    *(f"speech_config__tower_config__{name}" for name in WHISPER_SIZES),
    "image_connector_config__hidden_size",
]


@pytest.mark.parametrize("number", [0, -1, -(10**8)])
@pytest.mark.parametrize("place", SIZES)
def test_a_size_of_which_there_is_none_is_refused_by_key(folder, place, number) -> None:
    edit(folder, **{place: number})
    config = json.loads((folder / "config.json").read_text())
    for door in (AutoConfig.from_pretrained, lambda _: UniMoEConfig(**config)):
        with pytest.raises(UniMoEError, match=rf"{place.rpartition('__')[2]}: it is .* and at least 1"):
            door(folder)


NONE_SUCH = {
    "text_config__num_experts": -1,
    "text_config__pad_token_id": 10**8,
    "speech_config__tower_config__encoder_layers": -1,
    "vision_config__tower_config__num_channels": 10**8,
    "speech_config__tower_config__num_mel_bins": 10**8,
}


@pytest.mark.parametrize("place", NONE_SUCH)
def test_a_number_that_no_model_has_is_refused_by_key(folder, place) -> None:
    edit(folder, **{place: NONE_SUCH[place]})
    with pytest.raises(UniMoEError, match=place.rpartition("__")[2]):
        AutoConfig.from_pretrained(folder)


def test_a_size_that_was_taken_away_later_is_not_saved(folder, tmp_path) -> None:
    config = UniMoEConfig.from_pretrained(folder)
    config.vision_config.tower_config.num_attention_heads = 0
    with pytest.raises(UniMoEError, match="num_attention_heads"):
        config.save_pretrained(tmp_path / "again")


@pytest.mark.parametrize("place", ["layer_types", "text_config__layer_types", "vision_config__tower_config__id2label"])
@pytest.mark.parametrize("kind", [list, dict])
def test_a_list_of_more_entries_than_any_model_has_is_refused_at_once(folder, place, kind) -> None:
    names = [f"x{number}" for number in range(200_000)]
    edit(folder, **{place: names if kind is list else dict.fromkeys(names, "x")})
    started = time.perf_counter()
    with pytest.raises(UniMoEError, match=rf"{place.replace('__', '.')}: it has 200000 entries"):
        AutoConfig.from_pretrained(folder)
    assert time.perf_counter() - started < 3


def test_a_configuration_of_thousands_of_levels_is_refused_by_our_own_readers(folder) -> None:
    (folder / "config.json").write_text('{"a": ' * 5000 + "1" + "}" * 5000)
    for door in (load_model, UniMoEConfig.from_pretrained, UniMoEForConditionalGeneration.from_pretrained):
        with pytest.raises(UniMoEError, match=r"config\.json.*deep"):
            door(folder)


def test_a_size_that_is_meant_can_be_asked_for(folder, monkeypatch) -> None:
    edit(folder, text_config__num_hidden_layers=6000)
    with pytest.raises(UniMoEError, match="UNIMOE_LIMIT_MODEL_LAYERS"):
        AutoConfig.from_pretrained(folder)
    monkeypatch.setenv("UNIMOE_LIMIT_MODEL_LAYERS", "6000")
    assert AutoConfig.from_pretrained(folder).text_config.num_hidden_layers == 6000


KERNELS = [
    {"attn_implementation": "org/kernel"},
    {"_attn_implementation": "org/kernel@main:fn"},
    {"experts_implementation": "org/kernel"},
    {"text_config___attn_implementation_internal": "org/kernel"},
    {"text_config__experts_implementation": "org/kernel"},
    {"attn_implementation": {"text_config": "org/kernel"}},
    {"vision_config__tower_config__attn_implementation": "org/kernel"},
    {"vision_config__tower_config": {"model_type": "timm_wrapper", "architecture": "hf-hub:org/tower"}},
]


@pytest.mark.parametrize("values", KERNELS, ids=str)
def test_what_a_configuration_would_have_fetched_is_refused_by_name(folder, values) -> None:
    edit(folder, **values)
    for door in (*DOORS.values(), AutoConfig.from_pretrained):
        with pytest.raises(UniMoEError, match=r"(org/kernel|hf-hub:org/tower).*would be fetched"):
            door(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_no_question_is_asked(folder, file, monkeypatch) -> None:
    """Whatever code a folder names, the answer is no."""
    asked = []
    monkeypatch.setattr(builtins, "input", lambda *args: asked.append(args) or "y")
    path = folder / file
    values = json.loads(path.read_text())
    names = ("AutoConfig", "AutoModel", "AutoModelForMultimodalLM", "AutoProcessor", "AutoTokenizer")
    values["auto_map"] = {name: f"evil.{name}" for name in names} | {"AutoTokenizer": ["evil.Tokenizer", None]}
    path.write_text(json.dumps(values))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    doors = (
        lambda: load_model(folder),
        lambda: load_processor(folder, UniMoEConfig.from_pretrained(folder)),
        lambda: AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=False),
        lambda: AutoProcessor.from_pretrained(folder, trust_remote_code=False),
    )
    for door in doors:
        try:
            door()
        except ValueError as error:
            assert "custom code" in str(error) or "trust_remote_code" in str(error)
    assert not asked and not (folder / "ran").exists()
