"""What cannot be gone on with is refused in one line that names the file, before a model is loaded."""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from training.__main__ import app
from training.checkpoint.same_data import DATA_FILE
from training.checkpoint.state import MANIFEST, digests
from training.config.recipe import merge
from training.config.stage import StageConfig
from training.stage.run import run_stage
from training.stage.same_start import START_FILE
from unimoe.errors import ConfigError


@pytest.fixture(scope="module")
def begun(workspace, tmp_path_factory):
    """A folder with data/ (files, a stream, tables, validation rows) and output/, which has a checkpoint."""
    from datasets import Dataset

    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(workspace / "data", folder / "data")
    images = [json.loads(line) for line in (folder / "data/image_kind_train.jsonl").read_text().splitlines()]
    (folder / "data/media").mkdir()
    for number, row in enumerate(images):
        item = row["messages"][0]["content"][0]
        path = folder / "data/media" / f"{number}{Path(item['path']).suffix}"
        shutil.copy(workspace / "data" / item["path"], path)
        item["path"] = f"media/{path.name}"
    (folder / "data/images.jsonl").write_text("\n".join(map(json.dumps, images)))
    texts = [json.loads(line) for line in (folder / "data/text_train.jsonl").read_text().splitlines()]
    (folder / "data/list.json").write_text(json.dumps(texts[:3]))
    (folder / "data/held.jsonl").write_text("\n".join(map(json.dumps, texts[3:5])))
    flat = [answer(number) for number in range(4)]
    Dataset.from_list(flat).to_parquet(folder / "data/table.parquet")
    Dataset.from_list(flat).save_to_disk(folder / "data/saved")
    stage = stage_in(folder, workspace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.stage.stage.save_stage", lambda *args, **kwargs: Path(stage.output))
        run_stage(stage, console=Console(file=io.StringIO()))
    assert (Path(stage.output) / "checkpoint-2").is_dir()
    return folder


def answer(number: int) -> dict[str, list[dict[str, str]]]:
    asked, said = {"role": "user", "content": "say it"}, {"role": "assistant", "content": f"it {number}"}
    return {"messages": [asked, said]}


def stage_in(folder: Path, workspace: Path, **changes) -> StageConfig:
    data = folder / "data"
    mixture = [
        *(f"{data}/{name}" for name in ("images.jsonl", "list.json", "table.parquet", "saved")),
        {"path": f"{data}/text_train.jsonl", "stream": True},
    ]
    values = {
        "start": str(workspace / "start"),
        "train": {"parts": ["connectors"]},
        "data": {"mixture": mixture, "validation": [f"{data}/held.jsonl"]},
        "trainer": {"max_steps": 2, "save_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True},
        "output": str(folder / "output"),
    }
    return StageConfig.model_validate(merge(values, changes))


class LoadsAModel(Exception):
    """Everything before it has passed."""


@pytest.fixture
def copy(begun, workspace, tmp_path, monkeypatch):
    """Another copy of that folder, and its stage; no model is loaded."""
    folder = tmp_path / "copy"
    shutil.copytree(begun, folder)

    def loads(*args, **kwargs):
        raise LoadsAModel

    monkeypatch.setattr("training.stage.stage.load_stage_model", loads)
    stage = stage_in(folder, workspace)
    text = (folder / "output/stage.yaml").read_text().replace(str(begun), str(folder))
    (folder / "output/stage.yaml").write_text(text)
    return folder, stage


def refusal(stage) -> str:
    with pytest.raises(ConfigError) as caught:
        run_stage(stage, resume=True, console=Console(file=io.StringIO()))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def seal_again(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).write_text(json.dumps({**manifest, "files": digests(checkpoint)}))


def change(path: Path, *, before: str, after: str) -> None:
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))


def test_an_output_of_before_a_key_was_there_is_gone_on_with(copy):
    folder, stage = copy
    file = folder / "output/stage.yaml"
    file.write_text(file.read_text().replace("report:\n  memory: false\n", ""))
    with pytest.raises(LoadsAModel):
        run_stage(stage, resume=True)


def test_moved_data_that_are_equal_pass(copy, workspace, tmp_path):
    folder, stage = copy
    with pytest.raises(LoadsAModel):
        run_stage(stage, resume=True)
    (folder / "data").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/images.jsonl").rename(tmp_path / "elsewhere/pictures.jsonl")
    mixture = [source.model_dump() for source in stage.data.mixture]
    for source in mixture:
        moved = source["path"].replace(str(folder / "data"), str(tmp_path / "elsewhere"))
        source["path"] = moved.replace("images.jsonl", "pictures.jsonl")
    validation = [str(tmp_path / "elsewhere/held.jsonl")]
    moved = stage_in(folder, workspace, data={"mixture": mixture, "validation": validation})
    with pytest.raises(LoadsAModel):
        run_stage(moved, resume=True)
    mixture.reverse()
    swapped = stage_in(folder, workspace, data={"mixture": mixture, "validation": validation})
    assert "has changed since" in refusal(swapped) or "other settings" in refusal(swapped)
    mixture.reverse()
    mixture[0]["weight"] = 2.0
    heavier = stage_in(folder, workspace, data={"mixture": mixture, "validation": validation})
    assert "data.mixture.0.weight was 1.0, is 2.0" in refusal(heavier)


@pytest.mark.parametrize("name", ["images.jsonl", "list.json", "text_train.jsonl", "held.jsonl"])
def test_a_file_whose_text_changed_is_named_with_its_rows(copy, name):
    folder, stage = copy
    change(folder / "data" / name, before='"user"', after='"user" ')
    message = refusal(stage)
    assert message.startswith(f"{folder}/data/{name} has changed since {stage.output} was begun: it had ")
    rows = {"images.jsonl": "13 rows", "list.json": "3 rows", "held.jsonl": "2 rows"}.get(name, "not counted")
    assert (f"{rows}, and has" in message and "SHA-256" in message) or name == "text_train.jsonl"


def test_more_and_fewer_rows_are_counted(copy):
    folder, stage = copy
    file = folder / "data/images.jsonl"
    rows = file.read_text().splitlines()
    file.write_text("\n".join([*rows, rows[0]]))
    assert "images.jsonl has changed since" in (message := refusal(stage)) and "it had 13 rows, and has 14" in message
    file.write_text("\n".join(rows[:-2]))
    assert "it had 13 rows, and has 11 rows" in refusal(stage)


def test_tables_that_changed_are_named(copy):
    from datasets import Dataset

    folder, stage = copy
    other = Dataset.from_list([answer(number) for number in (0, 1, 2, 4)])
    other.to_parquet(folder / "data/table.parquet")
    assert "table.parquet has changed since" in refusal(stage)
    shutil.copy(folder / "data/saved/state.json", folder / "data/saved/more.json")
    Dataset.from_list([answer(number) for number in range(4)]).to_parquet(folder / "data/table.parquet")
    assert "data/saved has changed since" in refusal(stage)


def test_media_that_changed_in_size_are_told(copy):
    folder, stage = copy
    picture = next((folder / "data/media").iterdir())
    picture.write_bytes(picture.read_bytes() + b"\0")
    message = refusal(stage)
    assert f"the media of {folder}/data/images.jsonl (13 rows) have changed since" in message
    assert "they were 13 files of " in message and "bytes, and are 13 files of" in message


def finish(output: Path, workspace: Path) -> None:
    """Put there what a finished stage leaves."""
    shutil.rmtree(output / "checkpoint-2", ignore_errors=True)
    for path in (workspace / "start").iterdir():
        shutil.copy(path, output)
    (output / "history.json").write_text("[]")


def test_a_finished_stage_whose_data_changed_is_not_skipped(copy, workspace):
    folder, stage = copy
    finish(folder / "output", workspace)
    assert run_stage(stage, resume=True) == Path(stage.output)
    change(folder / "data/images.jsonl", before='"user"', after='"user" ')
    assert "it had 13 rows, and has 13 rows" in refusal(stage)
    (folder / "data/images.jsonl").unlink()
    assert run_stage(stage, resume=True) == Path(stage.output), "data that are gone are not missed"


DAMAGE = {
    "empty": b"",
    "cut off": None,
    "no text": b"\x80\x02\xff\xfe garbage",
    "a list": b"[]",
    "an empty object": b"{}",
    "null": b"null",
    "nested": b"[" * 100_000,
}
FILES = {
    f"checkpoint-2/{MANIFEST}": ("is damaged", DAMAGE),
    "checkpoint-2/trainer_state.json": ("is damaged", DAMAGE),
    "checkpoint-2/schedule.pt": ("is damaged", DAMAGE),
    "checkpoint-2/rng_state.pth": ("is damaged", DAMAGE),
    "stage.yaml": ("", ("cut off", "no text", "a list", "null", "nested")),
    START_FILE: ("is damaged", ("empty", "cut off", "no text", "a list", "null", "nested")),
    DATA_FILE: ("is damaged", ("empty", "cut off", "no text", "an empty object", "nested")),
}


SEALED = [name for name in FILES if name.startswith("checkpoint") and not name.endswith(MANIFEST)]


@pytest.mark.parametrize(
    ("name", "how", "sealed"),
    [
        (name, how, sealed)
        for name, (_, kinds) in FILES.items()
        for how in kinds
        for sealed in ((False, True) if name in SEALED else (False,))
    ],
)
def test_a_damaged_file_is_named(copy, name, how, sealed):
    """Also one that was damaged before its digest was taken."""
    folder, stage = copy
    path = folder / "output" / name
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] if DAMAGE[how] is None else DAMAGE[how])
    if sealed:
        seal_again(path.parent)
    message = refusal(stage)
    assert name in message and (FILES[name][0] in message or "bytes" in message), message
    assert len(message) < 1000


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("checkpoint")])
def test_a_file_that_is_gone_is_named(copy, name):
    folder, stage = copy
    path = folder / "output" / name
    path.unlink()
    assert path.name in refusal(stage)
    if path.name != MANIFEST:
        seal_again(path.parent)
        assert f"{path} is missing" in refusal(stage)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schedule.pt", {"state": {}, "rates": []}),
        ("schedule.pt", {"state": {"last_epoch": "x", "_step_count": 1}, "rates": [1.0]}),
        ("rng_state.pth", {"python": (3, (1,), None), "numpy": (), "cpu": torch.zeros(3)}),
        ("rng_state.pth", {"cpu": torch.get_rng_state()}),
        ("trainer_state.json", {"global_step": 1}),
        ("trainer_state.json", {"global_step": 2, "log_history": [1]}),
        ("trainer_state.json", {"global_step": 2, "unknown": 1}),
    ],
)
def test_states_that_are_whole_and_wrong_are_named(copy, name, value):
    folder, stage = copy
    path = folder / "output/checkpoint-2" / name
    path.write_text(json.dumps(value)) if path.suffix == ".json" else torch.save(value, path)
    seal_again(path.parent)
    assert f"{path} is damaged" in refusal(stage)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {}},
        {"files": {"a": 1}},
        {"files": {"../../stage.yaml": {"bytes": 1, "sha256": "x"}}},
        {"files": {"/etc/hostname": {"bytes": 1, "sha256": "x"}}},
        {"rows": {}},
        {"rows": None},
        {"processes": "two"},
        {"step": None},
    ],
)
def test_a_manifest_that_says_something_else_is_damaged(copy, change):
    folder, stage = copy
    path = folder / "output/checkpoint-2" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert f"{path} is damaged" in refusal(stage)


def test_what_it_was_begun_with_need_not_be_noted(copy):
    """An output of before that was."""
    folder, stage = copy
    (folder / "output" / DATA_FILE).unlink()
    with pytest.raises(LoadsAModel):
        run_stage(stage, resume=True)
    moved = [{**source.model_dump(), "media_root": str(folder / "data")} for source in stage.data.mixture]
    other = stage.model_copy(update={"data": stage.data.model_validate({"mixture": moved})})
    assert "media_root was None" in refusal(other)


def test_damage_ends_the_command_line_with_one_line_and_exit_code_2(copy, tmp_path):
    folder, stage = copy
    (folder / "output/checkpoint-2" / MANIFEST).write_text("{")
    (tmp_path / "stage.yaml").write_text(json.dumps(stage.model_dump()))
    result = CliRunner().invoke(app, [str(tmp_path / "stage.yaml"), "--resume"])
    assert result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1
    assert f"{folder}/output/checkpoint-2/{MANIFEST} is damaged" in result.stderr


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("history.json", b""),
        ("history.json", b"[{"),
        ("history.json", b"{}"),
        ("history.json", b"\xff"),
        ("config.json", None),
        ("config.json", b"{"),
        ("model.safetensors", None),
        ("model.safetensors", b""),
    ],
)
def test_a_finished_stage_that_is_damaged_is_not_skipped(copy, workspace, name, raw):
    folder, stage = copy
    finish(folder / "output", workspace)
    assert run_stage(stage, resume=True) == Path(stage.output)
    if raw is None:
        (folder / "output" / name).unlink()
    else:
        (folder / "output" / name).write_bytes(raw)
    message = refusal(stage)
    assert name in message and ("is damaged" in message or "is missing" in message)
    assert message.endswith("Bring it back, or remove the output to run the stage again.")


@pytest.mark.parametrize("finished", [False, True])
def test_settings_that_are_cut_off_are_damaged_not_others(copy, workspace, finished):
    folder, stage = copy
    if finished:
        finish(folder / "output", workspace)
    path = folder / "output/stage.yaml"
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in (1, len(lines) // 3, len(lines) // 2, len(lines) - 1):
        path.write_bytes(b"".join(lines[:kept]))
        assert f"{path}: is damaged" in refusal(stage)
    path.write_bytes(b"".join(lines)[:-3])
    assert f"{path}: is damaged: its last line is cut off" in refusal(stage)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "model.safetensors.index.json"]
)
def test_a_start_that_changed_is_named(copy, workspace, monkeypatch, finished, name):
    folder, stage = copy
    shutil.copytree(workspace / "start", folder / "start")
    facts = folder / "output" / START_FILE
    facts.write_text(facts.read_text().replace(str(workspace), str(folder)))
    settings = folder / "output/stage.yaml"
    settings.write_text(settings.read_text().replace(str(workspace / "start"), str(folder / "start")))
    stage = stage_in(folder, workspace, start=str(folder / "start"))
    if finished:
        finish(folder / "output", workspace)
        assert run_stage(stage, resume=True) == Path(stage.output)
    else:
        with pytest.raises(LoadsAModel):
            run_stage(stage, resume=True)
    with (folder / "start" / name).open("ab") as file:
        file.write(b" ")
    assert f"{folder}/start/{name} has changed since {stage.output} was begun: it was" in refusal(stage)
    (folder / "start" / name).unlink()
    if finished:
        assert run_stage(stage, resume=True) == Path(stage.output), "a start that is gone is not missed"
    elif not name.endswith("index.json"):
        assert "and is not there" in refusal(stage)


def test_cut_metrics_are_gone_on_with_and_damaged_ones_named(copy):
    folder, stage = copy
    path = folder / "output/metrics.jsonl"
    with path.open("ab") as file:
        file.write(b'{"step": 3, "lo')
    with pytest.raises(LoadsAModel):
        run_stage(stage, resume=True)
    path.write_bytes(b"\xff\n" + path.read_bytes())
    assert f"{path}:1: is damaged" in refusal(stage)
