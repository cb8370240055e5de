"""A checkpoint of one layout of processes, ZeRO and experts is consolidated, and gone on with under another."""

import json
from pathlib import Path

import pytest
from launch import run, train, train_and_kill
from safetensors.torch import load_file
from test_expert_parallel import furthest, losses, make_case, starts  # noqa: F401

SAVED_AT, STEPS = 2, 6
LAYOUTS = {
    "one": {"processes": 1},
    "zero-2": {"processes": 2, "zero": 2},
    "zero-3": {"processes": 2, "zero": 3},
    "experts-2": {"processes": 2, "zero": 2, "size": 2},
    "experts-3": {"processes": 2, "zero": 3, "size": 2},
    "experts-4": {"processes": 4, "zero": 2, "size": 4},
    "experts-2-of-4": {"processes": 4, "zero": 1, "size": 2},
}


@pytest.fixture(scope="module")
def make_layout(make_case):  # noqa: F811
    """A stage that trains router, connectors and experts by Adam, under a layout."""

    def make(layout, output):
        stage = make_case("adam", output, **LAYOUTS[layout])
        stage.trainer |= {"max_steps": STEPS, "save_strategy": "steps", "save_steps": SAVED_AT}
        return stage

    return make


@pytest.fixture(scope="module")
def unbroken(make_layout, tmp_path_factory):
    """The stage in one process from its first step to its last."""
    folder = tmp_path_factory.mktemp("unbroken")
    stage = make_layout("one", folder)
    train(stage, folder / "stage.yaml")
    return Path(stage.output)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("written", "resumed"),
    [
        ("one", "experts-3"),
        ("zero-2", "one"),
        ("zero-3", "zero-2"),
        ("experts-2", "one"),
        ("experts-2", "experts-4"),
        ("experts-3", "experts-2-of-4"),
    ],
)
def test_a_checkpoint_serves_any_layout(make_layout, unbroken, tmp_path, written, resumed):
    before, after = (make_layout(layout, tmp_path) for layout in (written, resumed))
    file = tmp_path / "stage.yaml"
    train_and_kill(before, file, at=SAVED_AT, processes=LAYOUTS[written]["processes"])
    checkpoint = Path(before.output) / f"checkpoint-{SAVED_AT}"
    consolidated = tmp_path / "consolidated"
    run("-m", "training", "consolidate", str(checkpoint), str(consolidated))
    train(after, file, "--resume", processes=LAYOUTS[resumed]["processes"])
    expected, actual = losses(unbroken, STEPS), losses(Path(after.output), STEPS)
    for step in range(SAVED_AT, STEPS):
        assert actual[step] == pytest.approx(expected[step], rel=1e-5), step
    models = [load_file(Path(folder) / "model.safetensors") for folder in (after.output, unbroken)]
    assert furthest(*models, least=0.01) <= 1e-5
    file.write_text(json.dumps(make_layout("one", tmp_path).model_dump()))  # whose batches are those of a step
    done = run(str(Path(__file__).with_name("next_loss_program.py")), str(consolidated), str(file), str(SAVED_AT + 1))
    assert float(done.stdout.split()[-1]) == pytest.approx(expected[SAVED_AT]["loss_language"], rel=1e-6)


@pytest.mark.distributed
@pytest.mark.parametrize("layout", ["experts-2", "experts-3"])
def test_the_best_checkpoint_is_what_a_stage_leaves(make_layout, tmp_path, layout):
    """The weights that a stage leaves are those of the measured step that was best: here, with the highest loss."""
    stage = make_layout(layout, tmp_path)
    rows = Path(stage.data.mixture[0].path)
    validation = rows.with_name(f"validation-{layout}.jsonl")
    validation.write_text("".join(rows.read_text().splitlines(keepends=True)[:5]))
    values = stage.model_dump()
    values["data"]["validation"] = [str(validation)]
    values["trainer"] |= {"eval_steps": SAVED_AT, "load_best_model_at_end": True, "greater_is_better": True}
    stage = type(stage).model_validate(values)
    train(stage, tmp_path / "stage.yaml", processes=LAYOUTS[layout]["processes"])
    lines = [json.loads(line) for line in (Path(stage.output) / "metrics.jsonl").read_text().splitlines()]
    measured = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line and line["step"]}
    best = max(measured, key=lambda step: measured[step])
    assert best < STEPS, "or the last would do"
    values["start"], values["output"] = stage.output, str(tmp_path / "again")
    values["parallel"], values["trainer"] = {}, values["trainer"] | {"max_steps": 1, "per_device_train_batch_size": 8}
    again = type(stage).model_validate(values)
    train(again, tmp_path / "again.yaml")
    first = json.loads((Path(again.output) / "metrics.jsonl").read_text().splitlines()[0])
    assert first["eval_loss"] == pytest.approx(measured[best], rel=1e-5)
