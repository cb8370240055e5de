"""Stopped in the middle of an epoch and started again, a training goes on with the rows that would have come."""

import io
import json
from itertools import groupby
from pathlib import Path

import pytest
from launch import ROOT, train, train_and_kill
from rich.console import Console
from test_resume import assert_equal_runs

from training.stage.run import run_stage
from training.trainer.trainer import StageTrainer

NOTED = (str(Path(__file__).parent.relative_to(ROOT) / "training_noted.py"),)
KILLED_AT, EPOCHS = 7, 4


@pytest.fixture
def make_flow(make_stage, mixture_start, workspace, tmp_path):
    """A weighted mixture in packs that two workers make; with a stream, or in epochs of which the second is broken."""
    data = workspace / "data"

    def make(name, streams, *, saved_at=KILLED_AT, steps=16):
        mixture = [
            {"path": str(data / "image_kind_train.jsonl"), "weight": 1.5},
            {"path": str(data / "spoken_word_train.jsonl"), "weight": 0.5},
            {"path": str(data / "text_train.jsonl"), "weight": 2, "stream": streams},
        ]
        augment = {"image": {"flip": 0.5, "shift": 0.2}, "speech": {"speed": 0.1, "mask_time": 0.2}}
        length = {"max_steps": steps} if streams else {"max_steps": -1, "num_train_epochs": EPOCHS}
        return make_stage(
            start=mixture_start,
            train={"parts": ["router", "connectors"]},
            data={
                "mixture": mixture,
                "packing": True,
                "max_length": 130,
                "packing_buffer": 12,
                "shuffle_buffer": 9,
                "too_long": "drop",
                "num_workers": 2,
                "augment": augment,
            },
            trainer={
                "save_steps": saved_at,
                "logging_steps": 1,
                "learning_rate": 0.01,
                "per_device_train_batch_size": 1,
                "gradient_accumulation_steps": 2,
                **length,
            },
            output=str(tmp_path / name),
        )

    return make


def noted(folder):
    """Rows of each run: file -> process -> step -> its batches."""
    found = {}
    for file in sorted(Path(folder).glob("rows-*.jsonl")):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for _, own in groupby(lines, key=lambda line: line["process"]):
            run: dict[int, list[list[str]]] = {}
            for line in own:
                run.setdefault(line["step"], []).append(line["rows"])
            found.setdefault(file.name, []).append(run)
    return found


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("processes", "streams"),
    [(0, True), (0, False), (2, True), (2, False)],
    ids=["one process, a stream", "one process, epochs", "two processes, a stream", "two processes, epochs"],
)
def test_a_broken_training_goes_on_with_the_rows_that_would_have_come(make_flow, tmp_path, processes, streams):
    unbroken, broken = make_flow("unbroken", streams), make_flow("broken", streams)
    how = {"processes": processes, "program": NOTED}
    file = tmp_path / "stage.yaml"
    train(unbroken, file, **how)
    train_and_kill(broken, file, at=KILLED_AT, **how)
    assert "going on from" in train(broken, file, "--resume", **how).stdout
    assert_equal_runs(unbroken.output, broken.output)
    expected, found = noted(unbroken.output), noted(broken.output)
    assert expected.keys() == found.keys() and len(expected) == max(processes, 1)
    for name, (whole,) in expected.items():
        before, after = found[name]
        assert streams or KILLED_AT % (len(whole) / EPOCHS), "not between two epochs"
        assert min(after) >= KILLED_AT and after.keys() | before.keys() == whole.keys()
        for step, batches in after.items():
            assert batches == whole[step], step
        for step, batches in before.items():
            assert batches == whole[step][: len(batches)], step
        assert any(len(batch) > 1 for batches in whole.values() for batch in batches), "or nothing was packed"


@pytest.fixture
def rows_by_step(monkeypatch):
    """Rows of the batches of each step, of every run: step -> its batches."""
    runs: list[dict[int, list[list[str]]]] = []
    step = StageTrainer.training_step

    def note(self, model, inputs, *args, **kwargs):
        if self.state.global_step == self.stop_at:
            raise KeyboardInterrupt
        runs[-1].setdefault(self.state.global_step, []).append(list(inputs["row_ids"]))
        return step(self, model, inputs, *args, **kwargs)

    def run(stage, *, stop_at=None, **options):
        runs.append({})
        monkeypatch.setattr(StageTrainer, "stop_at", stop_at, raising=False)
        run_stage(stage, console=Console(file=io.StringIO()), **options)
        return runs[-1]

    monkeypatch.setattr(StageTrainer, "training_step", note)
    return run


def test_a_stopped_stream_goes_on_with_the_rows_that_would_have_come(make_flow, rows_by_step):
    """In one process: packs of a weighted mixture with a stream, made by workers."""
    unbroken, broken = (make_flow(name, True, saved_at=2, steps=4) for name in ("unbroken", "broken"))
    whole = rows_by_step(unbroken)
    with pytest.raises(KeyboardInterrupt):
        rows_by_step(broken, stop_at=3)
    after = rows_by_step(broken, resume=True)
    assert after == {step: whole[step] for step in (2, 3)}
    assert_equal_runs(unbroken.output, broken.output)
    assert any(len(batch) > 1 for batches in whole.values() for batch in batches), "or nothing was packed"
