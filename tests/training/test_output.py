"""An output that would destroy something, or cannot be written, is refused at once; and it has one training."""

import json
import multiprocessing
import os
import subprocess
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from launch import ROOT, command, environment
from typer.testing import CliRunner

from training.__main__ import app
from training.config.recipe import load_recipe
from training.stage.output_lock import LOCK_FILE, OutputLock
from training.stage.run import run_stage
from unimoe.errors import ConfigError


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    """No model may be loaded before an output is refused."""
    monkeypatch.setattr(
        "training.stage.stage.load_stage_model", lambda *args, **kwargs: pytest.fail("a model is loaded")
    )


def refusal(stage, **how) -> str:
    with pytest.raises(ConfigError) as caught:
        run_stage(stage, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_as_output_or_above_it_is_refused(make_stage, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert f"{tmp_path}/file: is a file. Name another `output`." in refusal(make_stage(output=f"{tmp_path}/file"))
    for below in ("file/output", "file/a/b"):
        message = refusal(make_stage(output=str(tmp_path / below)))
        assert f"{tmp_path}/file: is a file, so that {tmp_path}/{below} cannot be made in it" in message
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "is a link to" in refusal(make_stage(output=f"{tmp_path}/link"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("output", ["/proc/output", "/sys/output", "/proc/self/a/b"])
def test_a_place_that_cannot_be_written_is_refused(make_stage, output):
    message = refusal(make_stage(output=output))
    assert message.startswith(f"{output}: cannot be written: ") and message.endswith("Name another `output`.")


@pytest.mark.parametrize("output", ["x" * 300, "a/" * 5000])
def test_an_output_with_too_long_a_name_is_refused(make_stage, tmp_path, output):
    message = refusal(make_stage(output=f"{tmp_path}/{output}"))
    assert "cannot be used (File name too long). Name another `output`." in message and len(message) < 300


@pytest.mark.parametrize("output", ["", " ", "a\0b"])
def test_an_output_without_a_name_is_refused(make_stage, output):
    assert "is no folder" in refusal(make_stage(output=output))


@pytest.mark.parametrize(
    ("below", "how"), [("", "is"), ("/model", "lies in"), ("/a/b", "lies in"), ("/..", "holds"), ("/x/../.", "is")]
)
def test_an_output_in_or_around_the_start_is_refused(make_stage, workspace, tmp_path, below, how):
    start = tmp_path / "runs" / "start"
    start.parent.mkdir()
    start.symlink_to(workspace / "start")
    before = {path.name for path in (workspace / "start").iterdir()}
    for given in (start, workspace / "start"):
        for stage in (
            {"start": str(given)},
            {"start": {"assemble": {"base": str(given), "experts": {"image": "no/model"}}}},
            {"start": {"assemble": {"base": "no/model", "experts": {"image": ["no/model", str(given)]}}}},
            {"start": "no/model", "train": {"lora": {"parts": ["attention"], "adapter": str(given)}}},
        ):
            message = refusal(make_stage(output=f"{workspace / 'start'}{below}", **stage))
            assert f"{how} the folder {given} that the stage starts from (" in message
    assert {path.name for path in (workspace / "start").iterdir()} == before


def test_a_hub_id_beside_the_output_is_none_of_its_folders(make_stage, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "is the folder org/name" in refusal(make_stage(start="org/name", output="org/name"))
    assert "is org/name, which data" in refusal(make_stage(data={"mixture": ["org/name"]}, output="org/name"))
    stage = make_stage(start="org/name", data={"mixture": ["org/rows"]}, output="org")
    monkeypatch.setattr("training.stage.stage.read_data", lambda config: pytest.fail("data are read"))
    with pytest.raises(pytest.fail.Exception, match="data are read"):
        run_stage(stage)
    assert not Path("org").exists(), "a folder that was made for the lock alone goes"


def test_a_finished_stage_is_not_run_over(make_stage, tmp_path):
    stage = make_stage()
    output = Path(stage.output)
    output.mkdir()
    (output / "history.json").write_text("[]")
    message = refusal(stage)
    assert "holds a finished stage (history.json). Skip it with --resume, remove the folder" in message
    (output / "history.json").unlink()
    (output / "config.json").write_text("{}")
    assert "holds a model (config.json) that would be overwritten" in refusal(stage)
    assert (output / "config.json").read_text() == "{}"


def test_all_outputs_of_a_recipe_are_checked_before_its_first_stage(make_stage, tmp_path):
    stage = make_stage().model_dump()
    (tmp_path / "file").write_text("mine")
    cases = {
        "is a file": {"one": stage, "two": {**stage, "output": str(tmp_path / "file")}},
        "is the output of the stages one and two": {"one": stage, "two": {**stage, "output": f"{stage['output']}/."}},
    }
    for message, stages in cases.items():
        (tmp_path / "recipe.yaml").write_text(json.dumps({"stages": stages}))
        result = CliRunner().invoke(app, [str(tmp_path / "recipe.yaml")])
        assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output
        assert not Path(stage["output"]).exists()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*/*.yaml")), ids=lambda path: path.name)
def test_no_recipe_of_ours_writes_into_its_start(path, monkeypatch, tmp_path):
    from training.stage.output import check_outputs

    if path.parent.name not in ("stages", "quickstart"):
        return
    monkeypatch.chdir(tmp_path)
    check_outputs(load_recipe(path).stages, resume=False)


def hold(output: Path, said: Connection) -> None:
    """Hold the lock of a folder until the end."""
    with OutputLock(output):
        said.send("held")
        time.sleep(600)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder."""
    context = multiprocessing.get_context("fork")
    heard, said = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path / "output", said), daemon=True)
    process.start()
    assert heard.recv() == "held"
    yield process
    process.kill()
    process.join()


def test_the_holder_of_a_lock_is_named_and_a_killed_one_holds_it_no_longer(make_stage, holder, tmp_path):
    stage = make_stage()
    message = refusal(stage)
    assert f"another training is writing there (process {holder.pid} on {os.uname().nodename}, since 2" in message
    assert "python" in message and message.endswith("Wait for it or end it, or name another `output`.")
    holder.kill()
    holder.join()
    assert (tmp_path / "output" / LOCK_FILE).is_file()
    with OutputLock(stage.output):
        assert json.loads((tmp_path / "output" / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "output").exists()


def test_the_processes_of_one_launch_are_one_training(tmp_path, monkeypatch):
    with OutputLock(tmp_path / "output"):
        monkeypatch.setenv("RANK", "1")
        with OutputLock(tmp_path / "output"):
            pass
        assert (tmp_path / "output" / LOCK_FILE).is_file(), "the first process holds it still"


@pytest.mark.distributed
def test_a_launch_of_two_ends_where_another_training_writes(make_stage, holder, tmp_path):
    done = subprocess.run(
        command(make_stage(), tmp_path / "stage.yaml", processes=2),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode != 0 and holder.is_alive()
    assert done.stderr.count(f"another training is writing there (process {holder.pid} on ") == 1


def test_a_process_that_outlives_the_training_does_not_hold_its_lock(tmp_path):
    ready, go_on = os.pipe(), os.pipe()
    with OutputLock(tmp_path / "output"):
        child = os.fork()
        if child == 0:  # as a worker that loads data
            os.write(ready[1], b"x")
            os.read(go_on[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
    with OutputLock(tmp_path / "output"):
        pass
    os.write(go_on[1], b"x")
    os.waitpid(child, 0)


def test_a_lock_that_cannot_be_read_still_locks(tmp_path, holder):
    (tmp_path / "output" / LOCK_FILE).write_text("{")
    with pytest.raises(ConfigError, match="it has not yet said which"), OutputLock(tmp_path / "output"):
        pass


@pytest.mark.distributed
def test_of_two_trainings_started_together_one_runs_and_one_says_why_not(make_stage, tmp_path):
    stage = make_stage(trainer={"max_steps": 3})
    started = [
        subprocess.Popen(
            command(stage, tmp_path / f"{number}.yaml"),
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in started]
    (_, _, first), (_, said, second) = sorted(ended, key=lambda end: end[2])
    assert (first, second) == (0, 2), ended
    assert "another training is writing there" in said or "holds a finished stage" in said
    assert len(said.strip().splitlines()) == 1 and (Path(stage.output) / "model.safetensors").is_file()


NAMES = ["data.json", "stage.yaml", "training.lock", "README.md", "history.json", "metrics.jsonl", "a/rows.jsonl"]


@pytest.mark.parametrize("key", ["mixture", "validation"])
@pytest.mark.parametrize("name", NAMES)
def test_an_output_that_holds_data_is_refused(make_stage, tmp_path, key, name):
    path = tmp_path / "output" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "output")
    for given in (path, tmp_path / "elsewhere" / name, tmp_path / "output/../output" / name):
        for resume in (False, True):
            message = refusal(make_stage(data={key: [str(given)]}), resume=resume)
            assert f"{tmp_path}/output: holds {given}, which data are read from (data.{key}). Name another" in message
    assert path.read_text() == "mine" and [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_an_output_that_is_or_lies_in_data_is_refused(make_stage, tmp_path):
    output = tmp_path / "output"
    (output / "media").mkdir(parents=True)
    (output / "table.parquet").write_text("mine")
    (tmp_path / "link.jsonl").symlink_to(output / "table.parquet")
    for given, how in (("output", "is"), ("output/*.parquet", "holds"), ("link.jsonl", "holds"), (".", "lies in")):
        assert f"{output}: {how} {tmp_path}" in refusal(make_stage(data={"mixture": [f"{tmp_path}/{given}"]}))
    rows = {"path": str(tmp_path / "rows.jsonl"), "media_root": str(output / "media")}
    assert "(data.media_root)" in refusal(make_stage(data={"mixture": [rows]}))


def test_an_output_that_holds_data_of_another_stage_is_refused(make_stage, tmp_path):
    from training.stage.output import check_outputs

    (tmp_path / "two").mkdir()
    (tmp_path / "two/data.json").write_text("mine")
    one = make_stage(data={"mixture": [str(tmp_path / "two/data.json")]})
    two = make_stage(output=str(tmp_path / "two"))
    with pytest.raises(ConfigError, match=r"two: holds .*/two/data.json"):
        check_outputs({"one": one, "two": two}, resume=False)


@pytest.mark.parametrize("name", ["training.lock", "stage.yaml", "data.json", "metrics.jsonl", "preprocessor.json"])
def test_what_is_written_never_goes_through_a_link(make_stage, tmp_path, name):
    output, mine = tmp_path / "output", tmp_path / "mine"
    output.mkdir()
    mine.write_text("mine")
    (output / name).symlink_to(mine)
    assert f"{output / name}: is a link to {mine}, which would be overwritten. Remove it" in refusal(make_stage())
    (output / name).unlink()
    os.mkfifo(output / name)
    assert f"{output / name}: is neither a file nor a folder. Remove it" in refusal(make_stage())
    assert mine.read_text() == "mine"


def test_a_lock_is_a_file_of_ours(tmp_path):
    lock, mine = tmp_path / LOCK_FILE, tmp_path / "mine"
    mine.write_text("mine")

    def pipe():
        os.mkfifo(lock)

    makers = (lambda: lock.symlink_to(mine), lambda: lock.hardlink_to(mine), pipe, lambda: lock.write_text("mine"))
    for make in makers:
        make()
        with pytest.raises(ConfigError, match=f"{LOCK_FILE}: is .*Remove it, or name another"), OutputLock(tmp_path):
            pytest.fail("it is taken")
        assert lock.is_fifo() or lock.read_text() == "mine"
        lock.unlink()
    assert mine.read_text() == "mine"
    for left in ("", '{"pid": 1', "\0\0\0"):  # of a training that was killed
        lock.write_text(left)
        with OutputLock(tmp_path):
            assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_a_foreign_lock_shows_no_escapes(tmp_path, holder):
    said = {"pid": 1, "host": "\x1b[2J", "since": "a\nb", "command": "\x1b]0;title\x07"}
    (tmp_path / "output" / LOCK_FILE).write_text(json.dumps(said))
    with pytest.raises(ConfigError) as caught, OutputLock(tmp_path / "output"):
        pass
    assert str(caught.value).isprintable() and "\\x1b[2J" in str(caught.value)


@pytest.mark.parametrize("output", ["file:///tmp/x", "s3://bucket/x", "hf://a/b", "FILE:/x"])
def test_an_address_is_no_output(make_stage, monkeypatch, tmp_path, output):
    monkeypatch.chdir(tmp_path)
    assert "is an address, and a stage writes to a folder" in refusal(make_stage(output=output))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("output", ["a\0b", "x" * 300, "file:///x"])
def test_a_recipe_with_such_an_output_ends_in_one_line(make_stage, tmp_path, output):
    stages = {"one": make_stage().model_dump(), "two": {**make_stage().model_dump(), "output": output}}
    (tmp_path / "recipe.yaml").write_text(json.dumps({"stages": stages}))
    result = CliRunner().invoke(app, [str(tmp_path / "recipe.yaml")])
    assert result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1 and "\0" not in result.stderr
