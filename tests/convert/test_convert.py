"""Released folders of Uni-MoE v1 become model folders: every tensor accounted for, values as worked out by hand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_folders import LAYERS, PIECES, QUERIES, RELEASES, config, save_release, sparse_layers
from released import Released, convert_release, loaded, moe_names, read
from tiny_processor import item, picture, process, sound, turn
from torch import Tensor
from transformers import AutoModelForMultimodalLM, AutoProcessor
from typer.testing import CliRunner

from unimoe.checkpoint.loading import load_model
from unimoe.cli import app
from unimoe.surgery import Certificate


@pytest.fixture(scope="module", params=RELEASES)
def released(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Released:
    return convert_release(request.param, tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("saved")
    save_release("v1.5", root)
    return root


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """Folders of v1.5 that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "release"))


def test_the_release_is_found(released: Released) -> None:
    assert released.conversion.name == released.name


def test_every_tensor_that_was_read_is_accounted_for(released: Released) -> None:
    rows = Certificate.load(released.root / "out").details["tensors"]
    read_from: dict[str, list[str]] = {}
    for row in rows:
        read_from.setdefault(row["file"], []).append(row["name"])
        assert (row["fate"] == "left out") == bool(row["why"]) and (row["to"] or row["why"]), row
    base = [name for file, names in read_from.items() if file.startswith("base/") for name in names]
    assert sorted(base) == sorted(released.files["base"])
    for file, weights in released.files.items():
        assert file == "base" or sorted(read_from[f"tuned/{file}"]) == sorted(weights), file
    taken = [row["to"] for row in rows if row["fate"] == "taken"]
    assert sorted(taken) == sorted(released.conversion.weights), "each weight is taken from one tensor"


def test_the_folder_loads_with_every_weight_and_is_made_of_shards(released: Released) -> None:
    _, found = AutoModelForMultimodalLM.from_pretrained(released.root / "out", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert len(list((released.root / "out").glob("model-*.safetensors"))) > 5
    assert load_model(released.root / "out").config.architectures == ["UniMoEForConditionalGeneration"]


def test_weights_are_those_worked_out_by_hand(released: Released) -> None:
    model, expected, files = load_model(released.root / "out"), loaded(released), released.files
    language, (router, experts) = model.model.language_model, moe_names(released.name)
    for layer in range(LAYERS):
        start, block = f"model.layers.{layer}.", language.layers[layer]
        for name in "qkvo":
            torch.testing.assert_close(
                block.self_attn.get_parameter(f"{name}_proj.weight"), expected[f"{start}self_attn.{name}_proj.weight"]
            )
        if layer in sparse_layers(released.name):
            assert block.mlp.router.weight.equal(expected[f"{start}{router}.weight"])
            for expert in range(8 if released.name == "8e" else 4):
                gate, up, down = (
                    expected[f"{start}{experts}.{expert}.{part}_proj.weight"] for part in ("gate", "up", "down")
                )
                torch.testing.assert_close(block.mlp.experts.gate_up_proj[expert], torch.cat([gate, up]))
                torch.testing.assert_close(block.mlp.experts.down_proj[expert], down)
        else:
            torch.testing.assert_close(block.mlp.up_proj.weight, expected[f"{start}mlp.up_proj.weight"])
    key = "audio" if released.name == "v1-audio" else "speech"
    tokens = "mm_audio_aligner.query_tokens" if key == "audio" else "query_tokens"
    aligner, connector = files["mm_audio_aligner.bin"], model.model.connectors[key]
    assert connector.queries.equal(aligner[f"model.{tokens}"][0]) and len(connector.queries) == QUERIES
    assert connector.output_proj.weight.equal(aligner["model.mm_audio_aligner.projector.weight"])
    second = files["non_lora_trainables.bin"]["base_model.model.model.mm_projector.2.weight"]
    assert model.model.connectors["image"].linear_2.weight.equal(second)


def test_placeholders_have_rows_of_zero(released: Released) -> None:
    model = load_model(released.root / "out")
    rows = model.get_input_embeddings().weight
    assert rows[: len(PIECES)].equal(released.files["base"]["model.embed_tokens.weight"])
    assert len(rows) == len(PIECES) + 4 and not rows[len(PIECES) :].any()
    assert model.generation_config.suppress_tokens == list(range(len(PIECES), len(PIECES) + 4))


@pytest.mark.parametrize("sign", [-1.0, 1.0])  # with one of them, every logit of a real token is below 0
def test_placeholders_are_never_generated(released: Released, sign: float) -> None:
    model = load_model(released.root / "out")
    with torch.no_grad():
        model.lm_head.weight[: len(PIECES)] = sign
    answer = model.generate(input_ids=torch.tensor([[1, 300, 310]]), max_new_tokens=2, eos_token_id=None)
    assert answer.max() < len(PIECES)


def test_pictures_clips_and_sounds_pass_through_the_whole_model(released: Released) -> None:
    model, processor = load_model(released.root / "out"), AutoProcessor.from_pretrained(released.root / "out")
    heard = "audio" if released.name == "v1-audio" else "speech"
    items = [item("image", picture()), item("video", [picture(shade) for shade in (10, 90, 200)])]
    inputs = process(processor, [turn(*items, item(heard, sound()), "what?")])
    assert inputs["mm_token_type_ids"].unique(return_counts=True)[1].tolist()[1:] == [4, 4, QUERIES]
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()


def test_each_piece_of_the_prompt_is_tokenised_as_if_alone(released: Released) -> None:
    processor = AutoProcessor.from_pretrained(released.root / "out")
    sound = "audio" if released.name == "v1-audio" else "speech"
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image"}, {"type": sound}, {"type": "text", "text": "a b?"}]},
        {"role": "assistant", "content": "so"},
        {"role": "user", "content": "and?"},
    ]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    preamble = "A chat between a curious user and an artificial intelligence assistant. "
    preamble += "The assistant gives helpful, detailed, and polite answers to the user's questions."
    head, middle, tail = f"{preamble} USER: ", "\n", "\na b? ASSISTANT: so"
    end = "USER: and? ASSISTANT:"
    assert text == f"{head}<|image|>{middle}<|{sound}|>{tail}</s>{end}"
    tokenizer = processor.tokenizer
    alone = [tokenizer(piece)["input_ids"] for piece in (head, middle, tail, end)]
    assert {ids[0] for ids in alone} == {1} and {ids[1] for ids in alone[1:]} <= {PIECES.index("▁")}
    placeholders = [tokenizer.convert_tokens_to_ids(f"<|{kind}|>") for kind in ("image", sound)]
    joined = [*alone[0], placeholders[0], *alone[1][1:], placeholders[1], *alone[2][1:], 2, *alone[3][1:]]
    assert tokenizer(text)["input_ids"] == joined


def test_towers_hear_and_see_as_the_released_ones(released: Released) -> None:
    ours = load_model(released.root / "out").config
    assert ours.vision_config.feature_layer == -2 and ours.num_tokens["image"] == 4 and ours.video_pooling == "clip"
    if released.name == "v1-audio":
        processor = AutoProcessor.from_pretrained(released.root / "out")
        extractor = processor.audio_feature_extractor
        assert (extractor.n_samples, extractor.max_length, extractor.max_windows) == (480_000, 2998, 20)
        assert ours.audio_config.tower_config.mask_padding and ours.audio_config.num_tokens == 187 * 8
        assert ours.audio_connector_config.qformer_config.num_hidden_layers == 3


def test_weights_can_be_written_in_half_precision_and_the_certificate_says_how_far_they_are(folder: Path) -> None:
    certificate = read(folder, "v1.5").write(folder / "out", dtype=torch.bfloat16)
    model = load_model(folder / "out")
    assert (
        model.dtype == torch.bfloat16 and model.model.language_model.layers[0].mlp.router.weight.dtype == torch.float32
    )
    assert 1e-4 < certificate.difference < 2**-8
    assert Certificate.load(folder / "out") == certificate


def change(folder: Path, file: str, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = torch.load(folder / file)
    edit(weights)
    torch.save(weights, folder / file)


def test_what_is_raised_to_float32_keeps_its_values(folder: Path) -> None:
    change(folder, "tuned/mlp_gates.bin", lambda w: w.update({name: value.half() for name, value in w.items()}))
    certificate = read(folder, "v1.5").write(folder / "out")
    router = load_model(folder / "out").model.language_model.layers[2].mlp.router.weight
    expected = torch.load(folder / "tuned/mlp_gates.bin")["model.layers.2.mlp.gate.weight"]
    assert router.dtype == torch.float32 and router.equal(expected.float()) and certificate.difference == 0.0


Q = "model.layers.1.self_attn.q_proj.weight"
FACTOR = f"base_model.model.{Q.removesuffix('weight')}lora_B.weight"
PROJECTOR = "model.mm_audio_aligner.projector.bias"


@pytest.mark.parametrize(
    ("file", "edit", "said"),
    [
        ("base/pytorch_model-00001-of-00002.bin", lambda w: w.pop("model.embed_tokens.weight"), "embed_tokens.weight"),
        (
            "tuned/mm_audio_aligner.bin",
            lambda w: w.update({"model.stranger.weight": torch.ones(2)}),
            "stranger.weight",
        ),
        (
            "tuned/mm_audio_aligner.bin",
            lambda w: w.update({PROJECTOR: torch.ones(5)}),
            r"projector.bias in .* is \(5,\)",
        ),
        ("tuned/adapter_model.bin", lambda w: w.pop(FACTOR), "q_proj.lora_A.weight, the other factor is missing"),
        ("tuned/adapter_model.bin", lambda w: w.update({FACTOR: torch.ones(9, 2)}), r"\(9, 2\) and \(2, 24\)"),
        ("tuned/adapter_model.bin", lambda w: w.update({"base_model.model.x": torch.ones(1)}), "base_model.model.x"),
        ("tuned/mlp_gates.bin", lambda w: w.update({"model.layers.1.mlp.gate.weight": torch.ones(4, 24)}), "layers"),
    ],
)
def test_a_tensor_that_is_missing_extra_or_of_another_shape_is_named(
    folder: Path, file: str, edit: Callable[[dict[str, Tensor]], Any], said: str
) -> None:
    change(folder, file, edit)
    with pytest.raises(ValueError, match=said):
        read(folder, "v1.5")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_experts", 6, "no release that is known.*num_experts 6.*Known are.*Uni-MoE v1 speech"),
        ("model_type", "llama", "model_type 'llama'"),
        ("rms_norm_eps", None, "rms_norm_eps None; a number is needed"),
        ("mm_projector_type", "linear", "mm_projector_type 'linear'; 'mlp2x_gelu' can be converted"),
    ],
)
def test_another_configuration_is_refused(folder: Path, field: str, value: Any, said: str) -> None:
    (folder / "tuned/config.json").write_text(json.dumps({**config("v1.5"), field: value}))
    with pytest.raises(ValueError, match=said):
        read(folder, "v1.5")


def test_8_experts_beside_the_configuration_of_4_are_refused_with_the_cure(folder: Path) -> None:
    (folder / "tuned/0_mlp_experts.bin").touch()
    with pytest.raises(ValueError, match=r"num_experts 4.*copy the base's 8config\.json"):
        read(folder, "v1.5")


def test_a_missing_file_and_the_wrong_tower_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="hears through Whisper small: give it as speech"):
        read(folder, "v1.5", speech=None, audio=folder / "BEATs.pt")
    with pytest.raises(ValueError, match=r"vision .*elsewhere"):
        read(folder, "v1.5", vision=folder / "elsewhere")
    (folder / "tuned/non_lora_trainables.bin").unlink()
    with pytest.raises(ValueError, match=r"there is no non_lora_trainables\.bin"):
        read(folder, "v1.5")


def test_a_tokenizer_that_cannot_be_read_is_refused_and_none_is_no_hindrance(folder: Path) -> None:
    for path in folder.glob("base/tokenizer*"):
        path.unlink()
    (folder / "base/tokenizer.model").write_bytes(b"\0")
    with pytest.raises(ValueError, match=r"its tokenizer cannot be read.*pip install sentencepiece"):
        read(folder, "v1.5")
    (folder / "base/tokenizer.model").unlink()
    found = read(folder, "v1.5")
    assert found.processor is None and found.vocabulary == (len(PIECES), len(PIECES) + 4)


def test_what_is_pickled_never_runs(folder: Path) -> None:
    torch.save({"model.norm.weight": Path("x")}, folder / "tuned/mlp_gates.bin")
    with pytest.raises(ValueError, match=r"mlp_gates.bin cannot be read"):
        read(folder, "v1.5")


def test_each_file_is_opened_once_and_the_others_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unimoe.convert import parts

    opened: list[str] = []
    open_one = parts.open_tensors
    monkeypatch.setattr(
        parts, "open_tensors", lambda at, name: opened.append(f"{at.name}/{name}") or open_one(at, name)
    )
    (folder / "tuned/training_args.bin").touch()
    found = read(folder, "v1.5")
    assert sorted(opened) == sorted({row.file for row in found.rows if row.file.startswith(("base/", "tuned/"))})
    assert found.unread == ["base/config.json", "tuned/training_args.bin"]


def test_a_conversion_that_fails_leaves_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unimoe.files import tensors

    before, calls, save = {path.name for path in folder.iterdir()}, [], tensors.write_tensors

    def fail(*arguments: Any, **more: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError("disk is full")
        save(*arguments, **more)

    monkeypatch.setattr(tensors, "write_tensors", fail)
    with pytest.raises(OSError, match="disk is full"):
        read(folder, "v1.5").write(folder / "out", shard_size="40KB")
    assert len(calls) == 3 and {path.name for path in folder.iterdir()} == before


def test_a_folder_that_is_there_is_not_written_over(folder: Path) -> None:
    (folder / "out").mkdir()
    with pytest.raises(ValueError, match="already"):
        read(folder, "v1.5").write(folder / "out")


def test_the_command_prints_what_becomes_of_files_and_then_writes(folder: Path) -> None:
    words = ["convert", str(folder / "tuned"), str(folder / "out"), "--base", str(folder / "base")]
    words += ["--vision", str(folder / "clip"), "--speech", str(folder / "whisper")]
    dry = CliRunner().invoke(app, [*words, "--dry-run"])
    assert dry.exit_code == 0 and "Uni-MoE v1.5" in dry.output and "window i of speech" in dry.output, dry.output
    assert not (folder / "out").exists()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "written to" in done.output and (folder / "out/certificate.json").is_file()
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2 and "already" in again.output
