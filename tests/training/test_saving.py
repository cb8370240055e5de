"""A checkpoint is whole or not there, whatever fails while it is written; what was changed afterwards is named."""

import errno
import io
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from training.__main__ import app
from training.checkpoint import folder as checkpoint
from training.checkpoint import state as state_files
from training.checkpoint.state import MANIFEST, CheckpointError, load_optimizer, put_weights, save_state, verify
from training.distributed.processes import together
from training.distributed.sharding import put_optimizer_states
from training.stage.run import run_stage
from unimoe.errors import ConfigError, DataError

WRITES = {
    "save_file": (state_files, "save_file"),
    "sync": (os, "fsync"),
    "digest": (state_files.hashlib, "file_digest"),
    "rename": (Path, "rename"),
    "mkdir": (Path, "mkdir"),
}


class Small(nn.Module):
    """What `save_state` needs of a model: weights of some size, none of them tied."""

    all_tied_weights_keys: dict[str, str] = {}

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))


def begin():
    model = Small()
    return model, torch.optim.AdamW(model.parameters())


def learn(model, optimizer):
    """Take a step; without autograd, which does not run in a forked process."""
    for parameter in model.parameters():
        parameter.grad = 2 * parameter.detach()
    optimizer.step()
    optimizer.zero_grad()


def save(folder, step, model, optimizer):
    facts = {"step": step, "processes": 1, "rows": {"step": 1, "batch": 1}}
    checkpoint.write_checkpoint(folder, step, lambda aside: save_state(aside, model, optimizer), facts=facts, limit=1)


def save_without_end(folder):
    model, optimizer = begin()
    for step in range(1, 1_000_000):
        learn(model, optimizer)
        save(folder, step, model, optimizer)


def checkpoints(folder):
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def test_a_hundred_failures_of_writing_leave_the_checkpoint_before(tmp_path, monkeypatch):
    chance = random.Random(0)
    model, optimizer = begin()
    learn(model, optimizer)
    save(tmp_path, 1, model, optimizer)
    failed = 0
    for step in range(2, 102):
        learn(model, optimizer)
        owner, name = WRITES[chance.choice(sorted(WRITES))]
        number = chance.randrange(3)  # which of its calls fails
        works, calls = getattr(owner, name), []

        def fail(*args, works=works, calls=calls, number=number, **kwargs):
            calls.append(args)
            if len(calls) > number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return works(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            try:
                save(tmp_path, step, model, optimizer)
            except CheckpointError as error:
                failed += 1
                assert "No space left" in str(error) and "Checkpoints before it are as they were" in str(error)
        (kept,) = checkpoints(tmp_path)
        verify(kept)
    assert 30 < failed < 100, "some calls are never reached"


def test_kills_at_any_moment_leave_whole_checkpoints(tmp_path):
    chance = random.Random(0)
    for _ in range(5):
        program = multiprocessing.get_context("fork").Process(target=save_without_end, args=(tmp_path,))
        program.start()
        while not checkpoints(tmp_path):
            assert program.is_alive()
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        program.kill()
        program.join()
        assert program.exitcode == -signal.SIGKILL
        verify(checkpoints(tmp_path)[-1])
        model, optimizer = begin()
        put_weights(checkpoints(tmp_path)[-1], model)
        load_optimizer(checkpoints(tmp_path)[-1], model, optimizer)


def test_what_is_loaded_is_what_was_saved(tmp_path):
    model, optimizer = begin()
    for _ in range(3):
        learn(model, optimizer)
    save(tmp_path, 3, model, optimizer)
    other, others_optimizer = begin()
    put_weights(tmp_path / "checkpoint-3", other)
    load_optimizer(tmp_path / "checkpoint-3", other, others_optimizer)
    learn(model, optimizer)
    learn(other, others_optimizer)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model, optimizer = begin()
    learn(model, optimizer)
    save(folder, 1, model, optimizer)
    return folder / "checkpoint-1"


def delete(path):
    path.unlink()


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("file", ["weights-00000-00001.safetensors", "optimizer-00000-00001.safetensors"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [(delete, "is missing"), (cut_off, r"bytes, not \d"), (flip_a_bit, "has other bytes than were written")],
)
def test_a_damaged_file_is_named_and_nothing_is_written(saved, tmp_path, file, damage, message):
    folder = shutil.copytree(saved, tmp_path / "checkpoint-1")
    damage(folder / file)
    with pytest.raises(CheckpointError, match=rf"{file} .*{message}.*Remove this checkpoint"):
        verify(folder)
    result = CliRunner().invoke(app, ["consolidate", str(folder), str(tmp_path / "out")])
    assert result.exit_code == 2 and file in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_not_gone_on_with(make_stage):
    stage = make_stage(trainer={"max_steps": 4, "save_steps": 1, "save_total_limit": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.stage.stage.save_stage", lambda *args, **kwargs: Path(stage.output))
        run_stage(stage, console=Console(file=io.StringIO()))
    last = checkpoints(Path(stage.output))[-1]
    flip_a_bit(last / "weights-00000-00001.safetensors")
    with pytest.raises(ConfigError, match=rf"{last.name}/weights-00000-00001.safetensors has other bytes"):
        run_stage(stage, resume=True)
    shutil.rmtree(last)
    shown = io.StringIO()
    run_stage(stage, resume=True, console=Console(file=shown, width=200))
    assert "checkpoint-3" in shown.getvalue()


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path):
    result = CliRunner().invoke(app, ["consolidate", str(tmp_path), str(tmp_path / "out")])
    assert result.exit_code == 2 and f"has no {MANIFEST}" in result.stderr


def test_a_process_that_sees_no_folder_says_so(tmp_path, monkeypatch):
    model, optimizer = begin()
    monkeypatch.setattr(checkpoint, "rank", lambda: 1)  # not the one that makes it
    with pytest.raises(CheckpointError, match=r"checkpoint-1 could not be written: .*No such file"):
        save(tmp_path, 1, model, optimizer)


def test_random_states_that_cannot_be_written_leave_no_checkpoint(make_stage, monkeypatch):
    """On a full disk torch raises a RuntimeError, not an OSError."""
    stage = make_stage(trainer={"max_steps": 2, "save_steps": 1, "save_total_limit": 2})
    works = torch.save

    def fail(value, target, *args, **kwargs):
        if "rng_state" in str(target) and (Path(stage.output) / "checkpoint-1").is_dir():
            raise RuntimeError("unexpected pos 64 vs 0")
        return works(value, target, *args, **kwargs)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(
        CheckpointError, match=r"checkpoint-2 could not be written: .*unexpected pos.*are as they were"
    ):
        run_stage(stage)
    (kept,) = checkpoints(Path(stage.output))
    verify(kept)


def test_states_of_any_shape_are_kept(make_stage):
    """Adafactor keeps rows and columns of a matrix apart."""
    trainer = {"max_steps": 2, "save_steps": 1, "optim": "adafactor", "learning_rate": 1e-3}
    stage = make_stage(trainer=trainer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.stage.stage.save_stage", lambda *args, **kwargs: Path(stage.output))
        run_stage(stage)
    with state_files.TensorFiles(checkpoints(Path(stage.output))[-1], "optimizer") as files:
        assert any(name.startswith("exp_avg_sq_col/") for name in files.names)
    run_stage(stage, resume=True)


@pytest.mark.parametrize("fused", [True, False])
def test_numbers_of_an_optimizer_are_where_its_kernels_read_them(fused):
    """As torch's own loading has it: on the device of the parameter for fused kernels, otherwise on the CPU."""
    model = torch.nn.Linear(2, 2, device="meta")
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.param_groups[0]["fused"] = fused
    states = {name: {"step", "exp_avg"} for name, _ in model.named_parameters()}
    put_optimizer_states(model, optimizer, states, lambda key, name: torch.zeros(() if key == "step" else (2,)))
    for state in optimizer.state.values():
        assert state["step"].device.type == ("meta" if fused else "cpu") and state["exp_avg"].device.type == "meta"


def test_the_best_of_the_measured_steps_may_have_no_checkpoint(make_stage, workspace):
    """Losses are measured at steps 2, 4 and 6 and weights are written at 4: the worst at 2 is not asked for."""
    trainer = {"max_steps": 6, "eval_steps": 2, "save_steps": 4, "logging_steps": 1, "save_total_limit": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    rows, validation = (str(workspace / "data" / f"{name}_train.jsonl") for name in ("image_kind", "spoken_word"))
    stage = make_stage(data={"mixture": [rows], "validation": [validation]}, trainer=trainer | best)
    assert (run_stage(stage) / "model.safetensors").is_file()


def test_parameters_that_differ_between_processes_are_named(monkeypatch):
    monkeypatch.setattr(state_files, "from_all", lambda sums: [sums, {**sums, "experts.down_proj": 3}])
    with pytest.raises(CheckpointError, match=r"experts\.down_proj is not the same in process 0 and process 1"):
        state_files.compare_replicas({"lm_head": 1, "experts.down_proj": 2})


@pytest.mark.parametrize("kind", [OSError, DataError])
def test_an_error_of_one_process_stops_all(monkeypatch, kind):
    said = (kind, "process 1: disk full")
    monkeypatch.setattr("training.distributed.processes.from_all", lambda value: [value, said])
    with pytest.raises(kind, match="process 1: disk full"):
        together(lambda: None, errors=(OSError, DataError))
