"""Bad input on the whole path, through the doors that people use: one clear error, and nothing trained or written.

Each case states what the one line must say: the file, row or key, and the cure.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import RESNET, TEXT
from tiny_processor import FOLDER, byte_tokenizer, image_processor, item, make_processor, picture, process, sound, turn
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner, Result

from evaluation.__main__ import app as evaluation_app
from training.__main__ import app as training_app
from unimoe.checkpoint.loading import CheckpointError, load_model
from unimoe.cli import app

IMAGE, SPEECH = str(FOLDER / "image_kind/food_00.png"), str(FOLDER / "spoken_word/zero_flite-kal16.flac")
ANSWER = {"role": "assistant", "content": "yes"}
GOOD = {"id": "good", "messages": [{"role": "user", "content": "hi"}, ANSWER]}


def ask(*content: Any) -> dict[str, Any]:
    """A row of data: a question with these items, and an answer."""
    return {"id": "bad", "messages": [{"role": "user", "content": list(content)}, ANSWER]}


def llava(value: str, **media: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "yes"}]
    return {"id": "bad", "conversations": turns, **media}


def medium(kind: str, path: str) -> dict[str, Any]:
    return {"type": kind, "path": path}


def refused(result: Result, *words: str) -> None:
    """Exit code 2, and one line on standard error that says all the words."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def first_fast(cases: Sequence[Any]) -> list[Any]:
    """Cases of a door whose mechanism is shown elsewhere: the first in the fast tests, all in the slow ones."""
    first, *others = cases
    values = [case if isinstance(case, tuple) else (case,) for case in others]
    return [first, *(pytest.param(*case, marks=pytest.mark.slow) for case in values)]


def nothing_written(folder: Path) -> None:
    for name in ("config.json", "model.safetensors", "results.json", "processor_config.json"):
        assert not list(folder.rglob(name))


@pytest.fixture(scope="module")
def broken_media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are no media, or empty or damaged ones."""
    folder = tmp_path_factory.mktemp("media")
    picture = Path(IMAGE).read_bytes()
    (folder / "half.png").write_bytes(picture[: len(picture) // 2])
    (folder / "flipped.png").write_bytes(picture[:60] + bytes(20) + picture[80:])
    (folder / "zero.png").write_bytes(b"")
    (folder / "folder.png").mkdir()
    (folder / "text.png").write_text("not a picture")
    (folder / "zero.wav").write_bytes(b"")
    frames = [Image.effect_noise((32, 32), 50 + shade) for shade in range(3)]
    frames[0].save(folder / "half.gif", save_all=True, append_images=frames[1:])
    cut(folder / "half.gif")
    soundfile.write(folder / "empty.wav", np.zeros(0, dtype=np.float32), 16_000)
    with_nan = np.zeros(1600, dtype=np.float32)
    with_nan[7] = np.nan
    soundfile.write(folder / "nan.wav", with_nan, 16_000, subtype="FLOAT")
    whole = (folder / "nan.wav").read_bytes()
    (folder / "rate0.wav").write_bytes(whole[:24] + bytes(4) + whole[28:])
    return folder


@pytest.fixture
def train(model_folder: Path, tmp_path: Path) -> Callable[..., Result]:
    """Run the training command on some rows; keyword arguments replace keys of the stage."""

    def run(*rows: Any, name: str = "data.jsonl", data: dict[str, Any] | None = None, **changes: Any) -> Result:
        file = tmp_path / name
        file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows or [GOOD]))
        stage = {
            "start": str(model_folder),
            "train": {"parts": ["connectors", "norms"]},
            "data": {"mixture": [str(file)], **(data or {})},
            "trainer": {"max_steps": 1, "per_device_train_batch_size": 8, "use_cpu": True},
            "output": str(tmp_path / "output"),
            **changes,
        }
        (tmp_path / "stage.yaml").write_text(json.dumps(stage))
        return CliRunner().invoke(training_app, [str(tmp_path / "stage.yaml")])

    return run


@pytest.fixture
def evaluate(model_folder: Path, tmp_path: Path) -> Callable[..., Result]:
    """Run the evaluation command on some rows."""

    def run(*rows: Any, model: Path | str = model_folder, **changes: Any) -> Result:
        (tmp_path / "task.jsonl").write_text(
            "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows or [GOOD])
        )
        values = {"output": str(tmp_path / "output"), "max_new_tokens": 1, "tasks": {"task": {"data": "task.jsonl"}}}
        values |= {"data_root": str(tmp_path), **changes}
        (tmp_path / "eval.yaml").write_text(json.dumps(values))
        return CliRunner().invoke(evaluation_app, ["--model", str(model), "--config", str(tmp_path / "eval.yaml")])

    return run


def test_the_good_row_and_a_picture_of_one_pixel_train_and_are_measured(train, evaluate, tmp_path):
    """So that every refusal below is due to what is bad in it."""
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert train(GOOD, ask(medium("image", "dot.png"))).exit_code == 0
    assert (tmp_path / "output/model.safetensors").is_file()
    assert evaluate().exit_code == 0 and (tmp_path / "output/results.json").is_file()


# Configuration


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trian": {}}, ["stage.yaml: trian: unknown key", "Did you mean 'train'"]),
        ({"data": {"mixtur": []}}, ["data.mixtur: unknown key", "Did you mean 'mixture'"]),
        ({"trainer": {"learning_rat": 1}}, ["trainer.learning_rat: unknown key", "Did you mean 'learning_rate'"]),
        ({"data": {"max_length": 0}}, ["data.max_length", "(got 0)"]),
        ({"data": {"mixture": ["nowhere.jsonl"]}}, ["no data file 'nowhere.jsonl'", "Correct its path"]),
        ({"start": "no/such/folder"}, ["no/such/folder", "there is no such folder", "Correct the path"]),
        ({"start": "no/folder"}, ["no/folder", "there is no such folder, nor such a model on the Hub"]),
        ({"train": {"parts": ["conectors"]}}, ["no part 'conectors'", "Did you mean 'connectors'"]),
        ({"trainer": {"lr_scheduler_type": "cosinus"}}, ["trainer: ", "cosinus"]),
    ],
)
def test_a_wrong_stage_is_refused(train, tmp_path, changes, words):
    refused(train(**changes), *words)
    nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_sise": 3}, ["eval.yaml: batch_sise: unknown key", "Did you mean 'batch_size'"]),
        ({"tasks": {"a": {"dta": "x"}}}, ["tasks.a.dta: unknown key", "Did you mean 'data'"]),
        ({"tasks": {"a": {"data": "nowhere.jsonl"}}}, ["nowhere.jsonl: cannot be read", "Correct its path"]),
        ({"batch_size": 0}, ["batch_size", "(got 0)"]),
    ],
)
def test_a_wrong_evaluation_is_refused(evaluate, tmp_path, changes, words):
    result = evaluate(**changes)
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    nothing_written(tmp_path)


@pytest.mark.parametrize("text", [None, "a: [1", "[1, 2]", "a: 1\na: 2"])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, command, text):
    file = tmp_path / "my.yaml"
    if text is not None:
        file.write_text(text)
    if command == "train":
        refused(CliRunner().invoke(training_app, [str(file)]), "my.yaml")
    else:
        refused(CliRunner().invoke(evaluation_app, ["--model", "x", "--config", str(file)]), "my.yaml")


# Data


BAD_ROWS = [
    pytest.param("{not json", ["data.jsonl:2", "not valid JSON"], id="broken JSON"),
    pytest.param({"id": 1}, [":2", "neither `messages` nor `conversations`", "Write"], id="no messages"),
    pytest.param(ask(medium("imgae", IMAGE)), [":2", "unknown item type 'imgae'", "Did you mean 'image'"], id="type"),
    pytest.param(llava("<image><image> what?", image=IMAGE), [":2", "2 <image> tag(s) but 1", "one tag"], id="tags >"),
    pytest.param(llava("<image> ?", image=[IMAGE, IMAGE]), [":2", "1 <image> tag(s) but 2", "one tag"], id="tags <"),
    pytest.param(llava("write <video>"), [":2", "1 <video> tag(s) but 0", "plain text"], id="a tag as text"),
    pytest.param(llava("what?", images=[IMAGE]), [":2", "images: 0 <image> tag(s) but 1"], id="plural key"),
    pytest.param({**GOOD, "image": IMAGE}, [":2", "image: 0 <image> tag(s) but 1"], id="beside messages"),
    pytest.param(
        {"messages": [{"role": "user", "content": "hi", "images": [IMAGE]}, ANSWER]},
        [":2", "messages[0].images: this key would be lost"],
        id="media in a message",
    ),
    pytest.param(ask(medium("image", "nowhere.png")), [":2", "there is no file", "nowhere.png"], id="no file"),
    pytest.param(
        ask({"type": "text", "text": "say <|image|>"}),
        [":2", "<|image|>", "Remove it"],
        id="placeholder in text",
    ),
]
BAD_MEDIA = [
    ("image", "half.png", ["cannot be read as a picture", "Replace the file"]),
    ("image", "flipped.png", ["cannot be read as a picture", "Replace the file"]),
    ("image", "zero.png", ["is empty (0 bytes)", "Replace it"]),
    ("image", "text.png", ["cannot be read as a picture", "Replace the file"]),
    ("video", "half.gif", ["cannot be read as a video", "Replace the file"]),
    ("speech", "empty.wav", ["the sound is empty (0 samples)", "Leave it out"]),
    ("audio", "empty.wav", ["the sound is empty (0 samples)", "Leave it out"]),
    ("speech", "zero.wav", ["zero.wav"]),
    ("audio", "nan.wav", ["1 of 1600 samples are NaN or infinite", "Repair"]),
    ("speech", "rate0.wav", ["rate0.wav"]),
]


@pytest.mark.parametrize(("row", "words"), BAD_ROWS)
def test_a_bad_row_stops_the_training_before_it_starts(train, tmp_path, row, words):
    refused(train(GOOD, row), "data.jsonl", *words)
    nothing_written(tmp_path)


@pytest.mark.parametrize(("kind", "name", "words"), BAD_MEDIA)
def test_a_bad_medium_stops_the_training_with_row_and_file(train, broken_media, tmp_path, kind, name, words):
    rows = [GOOD, ask(medium(kind, str(broken_media / name)), {"type": "text", "text": "?"})]
    refused(train(*rows), "data.jsonl:2", name, *words)
    nothing_written(tmp_path)


@pytest.mark.parametrize(("kind", "name", "words"), first_fast(BAD_MEDIA))
def test_a_worker_process_says_the_same_and_nothing_else(train, broken_media, tmp_path, capfd, kind, name, words):
    rows = [GOOD, ask(medium(kind, str(broken_media / name)), {"type": "text", "text": "?"})]
    refused(train(*rows, data={"num_workers": 1}), "data.jsonl:2", name, *words)
    nothing_written(tmp_path)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(("text", "words"), [("[{", ["data.json: not valid JSON", "line 1"]), ("{}", [".jsonl"])])
def test_a_json_list_that_is_none_is_refused(train, tmp_path, text, words):
    refused(train(text, name="data.json"), "data.json", *words)
    nothing_written(tmp_path)


def test_a_folder_in_the_place_of_a_medium_is_refused(train, evaluate, broken_media, tmp_path):
    row = ask(medium("image", str(broken_media / "folder.png")))
    refused(train(row), "data.jsonl:1", "folder.png", "no file")
    refused(evaluate(row), "task.jsonl:1", "folder.png", "no file")
    nothing_written(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_row_longer_than_the_limit_is_refused_and_never_cut(train, tmp_path, workers):
    row = ask(medium("image", IMAGE), {"type": "text", "text": "what?" * 20}, medium("speech", SPEECH))
    result = train(GOOD, row, data={"max_length": 60, "num_workers": workers})
    refused(result, "data.jsonl:2 (bad)", "data.max_length is 60", "Raise max_length")
    nothing_written(tmp_path)


@pytest.mark.slow
def test_a_worker_process_says_one_line_in_a_real_terminal_too(train, broken_media, tmp_path):
    train(GOOD, ask(medium("image", str(broken_media / "half.png"))), data={"num_workers": 1})
    command = [sys.executable, "-m", "training", str(tmp_path / "stage.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ") and "data.jsonl:2 (bad)" in last and "half.png" in last


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{not json", [":2", "not valid JSON"]),
        ({"id": 1}, [":2", "a list of `messages`"]),
        (ask(medium("imgae", IMAGE)), [":2", "unknown item type 'imgae'", "Did you mean 'image'"]),
        ({**GOOD, "id": "x", "images": [IMAGE]}, [":2", "images: these media would not be read"]),
        (ask(medium("image", "nowhere.png")), [":2", "content[0].path: there is no file", "nowhere.png"]),
        (GOOD, [":2", "id 'good' appears twice"]),
        (ask({"type": "text", "text": "say <|image|>"}), ["messages[0].content[0].text", "<|image|>", "Remove it"]),
    ],
)
def test_a_bad_row_stops_the_evaluation(evaluate, tmp_path, row, words):
    refused(evaluate(GOOD, row), "task.jsonl", *words)
    nothing_written(tmp_path)


@pytest.mark.parametrize(("kind", "name", "words"), BAD_MEDIA)
def test_a_bad_medium_stops_the_evaluation(evaluate, broken_media, tmp_path, kind, name, words):
    result = evaluate(GOOD, ask(medium(kind, str(broken_media / name)), {"type": "text", "text": "?"}))
    refused(result, "task.jsonl:2: ", *words)
    nothing_written(tmp_path)


@pytest.mark.parametrize(("kind", "name", "words"), first_fast(BAD_MEDIA))
def test_a_bad_medium_is_refused_in_a_chat(model_folder, broken_media, kind, name, words):
    arguments = ["chat", str(model_folder), f"--{kind}", str(broken_media / name), "what?"]
    refused(CliRunner().invoke(app, arguments), f"{kind} 0", name, *words)


# Processor


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_sampling_rate_that_is_none_is_refused(rate):
    bad = item("speech", {"array": sound(), "sampling_rate": rate})
    with pytest.raises(ValueError, match=r"row 1, speech 0: the sampling rate is .* Hz. State the rate"):
        process(make_processor(), [[turn("fine")], [turn(bad)]])


@pytest.mark.parametrize(("placeholders", "pictures"), [(2, 1), (1, 2)])
def test_one_placeholder_too_many_or_too_few_is_refused(placeholders, pictures):
    with pytest.raises(ValueError, match=rf"row 0: found {placeholders} <\|image\|> .* but {pictures} image item"):
        make_processor()(text=["<|image|>" * placeholders], images=[[picture()] * pictures])


def test_no_row_of_a_batch_is_cut_within_a_medium():
    rows = [[turn("short")], [turn("long " * 20, item("speech", sound()))]]
    with pytest.raises(ValueError, match=r"row 1: 0 of 2 <\|speech\|> tokens remain .*Do not truncate"):
        process(make_processor(), rows, truncation=True, max_length=60)


# Checkpoint folder


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def shards(folder: Path) -> list[Path]:
    """Save the folder's model anew in several files."""
    model = load_model(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    return sorted(folder.glob("model-*.safetensors"))


def another_model(folder: Path, model: Any, part: Any) -> None:
    shutil.rmtree(folder)
    model.save_pretrained(folder)
    part.save_pretrained(folder)


LLAMA = LlamaConfig(**TEXT)
DAMAGES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "truncated": (lambda f: cut(f / "model.safetensors"), ["model.safetensors is damaged", "again, whole"]),
    "truncated shard": (lambda f: cut(shards(f)[1]), ["model-00002-of-", "is damaged or cut off", "again, whole"]),
    "missing shard": (lambda f: shards(f)[1].unlink(), ["model-00002-of-", "is missing", "again, whole"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["there are no weights", "again, whole"]),
    "missing weight": (
        lambda f: edit_weights(f, lambda w: w.pop("lm_head.weight")),
        ["weights lack lm_head.weight", "would be random", "save_pretrained"],
    ),
    "unexpected weight": (
        lambda f: edit_weights(f, lambda w: w.update({"model.extra": torch.zeros(1)})),
        ["weights hold model.extra", "no place", "save_pretrained"],
    ),
    "weight of another shape": (
        lambda f: edit_weights(f, lambda w: w.update({"lm_head.weight": torch.zeros(3)})),
        ["lm_head.weight is (3,)", "(263, 32) by config.json", "save_pretrained"],
    ),
    "no config.json": (lambda f: (f / "config.json").unlink(), ["no config.json", "save_pretrained"]),
    "cut config.json": (lambda f: (f / "config.json").write_text('{"a": '), ["config.json is not valid JSON"]),
    "empty folder": (lambda f: [path.unlink() for path in f.iterdir()], ["no config.json"]),
    "a llama": (lambda f: another_model(f, LlamaForCausalLM(LLAMA), byte_tokenizer()), ["holds a 'llama' model"]),
    "a resnet": (
        lambda f: another_model(f, AutoModel.from_config(AutoConfig.for_model(**RESNET)), image_processor()),
        ["holds a 'resnet' model"],
    ),
}
PROCESSOR_DAMAGES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no processor": (
        lambda f: [(f / name).unlink() for name in ("processor_config.json", "tokenizer.json")],
        ["no processor_config.json", "processor.save_pretrained("],
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ["no tokenizer.json", "processor.save_pretrained("]),
    "cut tokenizer": (lambda f: cut(f / "tokenizer.json"), ["tokenizer.json is not valid JSON", "again, whole"]),
    "another processor": (
        lambda f: make_processor().save_pretrained(f),
        ["processor_config.json has media_layout.", "processor.save_pretrained("],
    ),
}


def damaged(kind: str, model_folder: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A copy of the model folder with something wrong, and what must be said about it."""
    change, words = {**DAMAGES, **PROCESSOR_DAMAGES}[kind]
    folder = shutil.copytree(model_folder, tmp_path / "damaged")
    change(folder)
    return folder, [str(folder), *words]


# Every damage is shown at the loader and at `verify`. The other doors load alike: they take two of them in the fast
# tests, and all in the slow ones.
AT_A_DOOR = [
    kind if kind in ("truncated", "no tokenizer") else pytest.param(kind, marks=pytest.mark.slow)
    for kind in (*DAMAGES, *PROCESSOR_DAMAGES)
]


@pytest.mark.parametrize("kind", AT_A_DOOR)
def test_a_damaged_folder_is_no_start_of_a_stage(train, model_folder, tmp_path, kind):
    folder, words = damaged(kind, model_folder, tmp_path)
    refused(train(start=str(folder)), *words)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("kind", first_fast(["truncated", "missing weight", "a llama"]))
def test_a_damaged_specialist_is_not_assembled(train, model_folder, tmp_path, kind):
    folder, words = damaged(kind, model_folder, tmp_path)
    start = {"assemble": {"base": str(model_folder), "experts": {"image": str(folder)}}}
    refused(train(start=start), *words)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("kind", AT_A_DOOR)
def test_a_damaged_folder_is_not_measured(evaluate, model_folder, tmp_path, kind):
    folder, words = damaged(kind, model_folder, tmp_path)
    refused(evaluate(model=folder), *words)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("kind", [*DAMAGES, *PROCESSOR_DAMAGES])
def test_a_damaged_folder_is_not_verified(model_folder, tmp_path, kind):
    folder, words = damaged(kind, model_folder, tmp_path)
    refused(CliRunner().invoke(app, ["verify", str(folder)]), *words)


@pytest.mark.parametrize("kind", AT_A_DOOR)
def test_nobody_chats_with_a_damaged_folder(model_folder, tmp_path, kind):
    folder, words = damaged(kind, model_folder, tmp_path)
    refused(CliRunner().invoke(app, ["chat", str(folder), "hello"]), *words)


@pytest.mark.parametrize("kind", first_fast(list(DAMAGES)))  # needs no processor
def test_there_is_no_information_on_a_damaged_folder(model_folder, tmp_path, kind):
    folder, words = damaged(kind, model_folder, tmp_path)
    refused(CliRunner().invoke(app, ["info", str(folder)]), *words)


@pytest.mark.parametrize("kind", [*DAMAGES])
def test_a_damaged_folder_raises_in_python(model_folder, tmp_path, kind):
    folder, words = damaged(kind, model_folder, tmp_path)
    with pytest.raises(CheckpointError) as error:
        load_model(folder)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


# transformers' own classes draw a missing weight at random and leave out an unknown one, with a warning.
@pytest.mark.parametrize("kind", [kind for kind in DAMAGES if kind not in ("missing weight", "unexpected weight")])
def test_the_auto_class_loads_no_damaged_folder(model_folder, tmp_path, kind):
    folder, _ = damaged(kind, model_folder, tmp_path)
    with pytest.raises(Exception, match=r".+") as error:
        AutoModelForMultimodalLM.from_pretrained(folder)
    assert not isinstance(error.value, (AttributeError, KeyError, TypeError))


@pytest.mark.parametrize("kind", ["no processor", "no tokenizer", "empty folder"])
def test_the_auto_processor_needs_its_files(model_folder, tmp_path, kind):
    folder, _ = damaged(kind, model_folder, tmp_path)
    with pytest.raises((OSError, ValueError)):
        AutoProcessor.from_pretrained(folder)


# Parts of a new model


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of parts: a language model, a tower without and with its image processor, and damaged ones."""
    root = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(placeholders=False)
    llama = LlamaForCausalLM(LlamaConfig(**{**TEXT, "vocab_size": len(tokenizer)}))
    for name in ("language", "language-cut", "language-without-weight", "language-without-tokenizer"):
        llama.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    cut(root / "language-cut/model.safetensors")
    edit_weights(root / "language-without-weight", lambda weights: weights.pop("model.norm.weight"))
    (root / "language-without-tokenizer/tokenizer.json").unlink()
    tower = AutoModel.from_config(AutoConfig.for_model(**RESNET))
    for name in ("vision", "vision-cut", "vision-without-weight", "vision-without-processor"):
        tower.save_pretrained(root / name)
        image_processor().save_pretrained(root / name)
    cut(root / "vision-cut/model.safetensors")
    edit_weights(root / "vision-without-weight", lambda weights: weights.pop(sorted(weights)[0]))
    (root / "vision-without-processor/preprocessor_config.json").unlink()
    (root / "empty").mkdir()
    return root


@pytest.mark.parametrize(
    ("option", "name", "words"),
    [
        ("language", "nowhere", ["there is no such folder", "Correct the path"]),
        ("language", "empty", ["there is no config.json"]),
        ("language", "vision", ["A 'resnet' language model cannot be used; llama, mistral, qwen2, qwen3,"]),
        ("language", "language-cut", ["model.safetensors is damaged", "again, whole"]),
        ("language", "language-without-weight", ["weights lack model.norm.weight", "would be random"]),
        ("language", "language-without-tokenizer", ["it has no tokenizer", "tokenizer.json"]),
        ("vision", "nowhere", ["there is no such folder", "Correct the path"]),
        ("vision", "empty", ["there is no config.json"]),
        ("vision", "language", ["it has no image processor", "preprocessor_config.json"]),
        ("vision", "vision-cut", ["model.safetensors is damaged", "again, whole"]),
        ("vision", "vision-without-weight", ["weights lack embedder", "would be random"]),
        ("vision", "vision-without-processor", ["it has no image processor", "preprocessor_config.json"]),
        ("speech", "vision", ["it has no feature extractor", "preprocessor_config.json"]),
        ("audio", "language", ["it has no feature extractor", "preprocessor_config.json"]),
    ],
)
def test_a_part_that_cannot_be_used_is_named_with_its_option(parts, tmp_path, option, name, words):
    given = {"language": str(parts / "language"), option: str(parts / name)}
    arguments = [text for key, value in given.items() for text in (f"--{key}", value)]
    result = CliRunner().invoke(app, ["build", *arguments, "--out", str(tmp_path / "out")])
    refused(result, f"Error: --{option} {parts / name}: ", *words)
    assert not (tmp_path / "out").exists()
