"""Specialists of one run are those of separate runs: forced routing, no drift of those that rest."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from launch import train
from transformers import AutoModelForMultimodalLM, AutoProcessor

from training.config.data import DataConfig
from training.config.recipe import merge
from training.config.stage import StageConfig
from training.data import MixtureDataset
from training.data.batching.streams import apportion, split_by_modality, step_schedule
from training.data.mixture.dataset import read_mixture
from training.data.schema import DataError
from training.stage.run import run_stage
from training.trainer.validation import ValidationRows
from unimoe.errors import ConfigError
from unimoe.surgery import assemble

STEPS = {"image": 5, "speech": 3, "text": 2}
FILES = {"image": "image_kind", "speech": "spoken_word", "text": "text"}
TRAINER = {
    "per_device_train_batch_size": 4,
    "learning_rate": 3e-3,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.3,
    "save_steps": 4,
}


@pytest.fixture(scope="module")
def stages_in(make_stage_in, workspace):
    """One stage for all specialists, and one for each alone, in a folder."""

    def make(folder, processes=1, **changes):
        parts = {key: [f"{part}.{key}" for part in ("connectors", "encoders")] for key in ("image", "speech")}
        data = {key: {"mixture": [str(workspace / "data" / f"{name}_train.jsonl")]} for key, name in FILES.items()}
        trainer = TRAINER | {"per_device_train_batch_size": 4 // processes}
        together = make_stage_in(
            folder / f"together-{processes}",
            start={"path": None, "specialists": {"base": str(workspace / "start"), "modalities": STEPS}},
            train={"parts": ["mlp", *parts["image"], *parts["speech"]]},
            data={"mixture": [path for values in data.values() for path in values["mixture"]]},
            trainer=trainer | {"max_steps": sum(STEPS.values())},
        )
        alone = {
            key: make_stage_in(
                folder / f"alone-{key}-{processes}",
                train={"parts": ["mlp", *parts.get(key, [])]},
                data=data[key],
                trainer=trainer | {"max_steps": steps},
            )
            for key, steps in STEPS.items()
        }
        return again(together, **changes), alone

    return make


@pytest.fixture
def stages(stages_in, tmp_path):
    return lambda processes=1, **changes: stages_in(tmp_path, processes, **changes)


@pytest.fixture(scope="module")
def trained(stages_in, tmp_path_factory):
    """The stages, of which the one for all specialists has run."""
    together, alone = stages_in(tmp_path_factory.mktemp("specialists"))
    run_stage(together)
    return together, alone


def again(stage: StageConfig, **changes) -> StageConfig:
    return StageConfig.model_validate(merge(stage.model_dump(), changes))


def weights(folder) -> dict:
    return AutoModelForMultimodalLM.from_pretrained(folder).state_dict()


def check_equal(together: StageConfig, alone: dict[str, StageConfig], start: Path) -> None:
    initial = weights(start)
    for key, stage in alone.items():
        actual, expected = weights(Path(together.output) / key), weights(stage.output)
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert (actual[name] - value).abs().max() <= 1e-5 * max(float(value.abs().max()), 1e-3), (key, name)
        moved = [name for name, value in expected.items() if not torch.equal(value, initial[name])]
        assert any(".mlp." in name for name in moved)
        assert all(f".{key}." in name for name in moved if "encoders" in name or "connectors" in name)


def test_specialists_that_wait_for_their_first_turn_are_not_said_to_have_no_gradient(trained):
    together, alone = trained
    for key in alone:
        history = json.loads((Path(together.output) / key / "history.json").read_text(encoding="utf-8"))
        assert not any("No gradient" in warning for warning in history[-1].get("warnings", []))


def test_specialists_of_one_run_are_those_of_separate_runs(trained, workspace):
    """AdamW with weight decay, clipping and a schedule: what rests is left alone, each follows its own schedule."""
    together, alone = trained
    for stage in alone.values():
        run_stage(stage)
    check_equal(together, alone, workspace / "start")
    history = json.loads((Path(together.output) / "image" / "history.json").read_text())
    assert history[-1]["start"]["specialists"]["modalities"] == STEPS


@pytest.mark.distributed
def test_specialists_of_one_run_on_two_processes_are_those_of_separate_runs(stages, workspace, tmp_path):
    together, alone = stages(processes=2)
    for stage in (together, *alone.values()):
        train(stage, tmp_path / "stage.yaml", processes=2)
    check_equal(together, alone, workspace / "start")


def test_they_go_on_from_a_checkpoint_as_if_never_stopped(trained, monkeypatch):
    together, _ = trained
    stopped = again(together, output=f"{together.output}-stopped")
    from training.trainer import specialists

    step = specialists.SpecialistTrainer.training_step

    def stop(self, *args, **kwargs):
        if self.state.global_step == 6:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(specialists.SpecialistTrainer, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stopped)
    monkeypatch.setattr(specialists.SpecialistTrainer, "training_step", step)
    assert (Path(stopped.output) / "checkpoint-4").is_dir()
    run_stage(stopped, resume=True)
    for key in STEPS:
        expected, actual = weights(Path(together.output) / key), weights(Path(stopped.output) / key)
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-7, msg=f"{key} {name}")


def test_each_validation_row_is_answered_by_its_own_specialist(stages, workspace):
    """After the run, a file's loss is that of the dense model of its modality."""
    files = []
    for name in ("image_kind", "spoken_word"):
        files.append(
            str(shutil.copy(workspace / "data" / f"{name}_train.jsonl", workspace / "data" / f"{name}.jsonl"))
        )
    together, _ = stages(data={"validation": files})
    output = run_stage(together)
    together_losses = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
    if "eval_loss" not in together_losses:
        together_losses = json.loads((output / "metrics.jsonl").read_text().splitlines()[-2])
    for key, file in zip(("image", "speech"), files, strict=True):
        dense = AutoModelForMultimodalLM.from_pretrained(output / key)
        processor = AutoProcessor.from_pretrained(output / key)
        config = DataConfig(mixture=["other.jsonl"], validation=[file])
        rows = ValidationRows(
            config,
            MixtureDataset(read_mixture(config.validation_data), seed=0),
            processor,
            batch_size=4,
            process=0,
            processes=1,
        )
        rows.choose_rows()
        expected = rows.describe(rows.look(dense.eval(), lambda batch: batch))["eval_loss"]
        assert together_losses[f"eval_loss/{Path(file).stem}"] == pytest.approx(expected, rel=1e-5)


def test_packing_lora_and_accumulation_work_and_the_folders_assemble(stages, workspace):
    together, _ = stages(
        train={"parts": ["connectors.image"], "lora": {"parts": ["mlp"], "r": 2}},
        data={"packing": True, "max_length": 256},
        trainer={"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1, "max_steps": 4},
    )
    output = run_stage(together)
    experts = {key: output / key for key in ("image", "speech")}
    model, certificate = assemble(workspace / "start", experts)
    assert certificate.kind == "exact" and model.config.text_config.num_experts == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"parts": ["mlp", "attention"]}}, "attention is shared by all specialists"),
        ({"parallel": {"zero": 2}}, "flat buffers would move specialists that rest"),
        ({"trainer": {"max_steps": -1}}, "share out a number of steps"),
    ],
)
def test_what_would_mix_specialists_is_refused_when_the_configuration_is_read(stages, changes, message):
    with pytest.raises(ValueError, match=message):
        stages(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"start": {"specialists": {"modalities": {"imge": 1}}}}, ConfigError, "no encoder for imge"),
        ({"train": {"parts": ["mlp", "connectors"]}}, ConfigError, "belongs to none of the specialists"),
        ({"trainer": {"max_steps": 2}}, ConfigError, r"2 step\(s\) cannot be shared out"),
    ],
)
def test_what_does_not_fit_the_model_is_named(stages, changes, error, message):
    together, _ = stages()
    values = merge(together.model_dump(), changes)
    if "start" in changes:
        values["start"]["specialists"]["modalities"] = changes["start"]["specialists"]["modalities"]
    with pytest.raises(error, match=message):
        run_stage(StageConfig.model_validate(values))


def test_a_row_that_belongs_to_two_specialists_or_none_is_named(make_stage, write_jsonl, workspace):
    image = {"type": "image", "path": str(next((workspace / "start").glob("*.png"), _picture()))}
    speech = {"type": "speech", "path": str(_picture().parent.parent / "spoken_word/zero_flite-kal16.flac")}
    answer = {"role": "assistant", "content": "yes"}

    def rows(*content):
        return {"id": "odd", "messages": [{"role": "user", "content": [*content]}, answer]}

    text = {"type": "text", "text": "hello"}
    for content, message in [([image, speech], r"odd\): has image and speech"), ([text], "modality text, for which")]:
        path = write_jsonl(rows(image), rows(*content))
        stage = make_stage(data={"mixture": [str(path)]})
        dataset = MixtureDataset(read_mixture(stage.data), seed=0)
        with pytest.raises(DataError, match=message):
            split_by_modality(dataset, ["image", "speech"])


def _picture() -> Path:
    from training.quickstart.rows import MEDIA_FOLDER

    return MEDIA_FOLDER / "image_kind" / "food_00.png"


def test_turns_are_spread_evenly_and_add_up():
    assert (
        apportion(10, {"a": 1, "b": 1, "c": 2}) == {"a": 3, "b": 2, "c": 5}
        or sum(apportion(10, {"a": 1, "b": 1, "c": 2}).values()) == 10
    )
    assert apportion(3, {"a": 100, "b": 1, "c": 1}) == {"a": 1, "b": 1, "c": 1}
    turns = step_schedule({"a": 6, "b": 3})
    assert turns.count("a") == 6 and turns.count("b") == 3
    assert all("b" in turns[start : start + 3] for start in range(0, 9, 3))
