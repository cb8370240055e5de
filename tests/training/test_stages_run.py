"""Stages end to end on real media: an ordinary folder comes out, its papers are true, and a NaN stops it."""

import io
import json
import multiprocessing
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launch import ROOT, environment
from PIL import Image
from rich.console import Console
from transformers import AutoModelForMultimodalLM, AutoProcessor, GenerationConfig
from typer.testing import CliRunner

from training.__main__ import app
from training.config.training_arguments import training_arguments
from training.data import DataError
from training.monitor.metrics import expert_load
from training.monitor.progress import summarize
from training.monitor.values import NonFiniteLoss
from training.stage.run import run_stage
from training.trainer.start import load_start
from training.trainer.trainer import StageTrainer
from unimoe.errors import ConfigError


@pytest.fixture
def quiet():
    return Console(file=io.StringIO(), width=120)


def read_metrics(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def state(folder):
    return AutoModelForMultimodalLM.from_pretrained(folder).state_dict()


def changed_names(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="module")
def recipe_outputs(workspace, tmp_path_factory, curves):
    """align -> one specialist -> assembled mixture with LoRA; run once, through the command line."""
    output = tmp_path_factory.mktemp("recipe")
    data = [f"{workspace}/data/{name}_train.jsonl" for name in ("image_kind", "spoken_word", "sound_kind", "text")]
    stage = {"trainer": {"max_steps": 2, "per_device_train_batch_size": 6, "logging_steps": 1, "learning_rate": 0.01}}
    recipe = {
        "output": str(output),
        "seed": 3,
        "defaults": {**stage, "data": {"mixture": data, "cache_media": True}},
        "stages": {
            "align": {"start": f"{workspace}/start", "train": {"parts": ["encoders", "connectors", "mlp"]}},
            "expert": {"start": "${output}/align", "train": {"parts": ["mlp"]}},
            "mixed": {
                "start": {"assemble": {"base": "${output}/align", "experts": {"image": "${output}/expert"}}},
                "train": {"parts": ["router"], "lora": {"parts": ["experts", "attention"], "r": 2}},
                "output": "${output}/model",
            },
        },
    }
    file = output / "recipe.yaml"
    file.write_text(json.dumps(recipe))  # JSON is YAML
    done = CliRunner().invoke(app, [str(file), "stages.expert.trainer.max_steps=1"])
    assert done.exit_code == 0, done.output[-2000:]
    return output, done.stdout


def test_a_recipe_runs_and_shows_what_trains_a_sample_and_its_losses(recipe_outputs):
    output, shown = recipe_outputs
    for text in (
        "stage 1/3 align",
        "What trains",
        "One sample:",
        "<|im_end|>",
        "step 2/2",
        "balance",
        "image ",
        "lora",
    ):
        assert text in shown
    assert [len(read_metrics(output / name)) for name in ("align", "expert", "model")] == [3, 2, 3]
    widths = [Image.open(folder / "curves.png").width for folder in (output, output / "align")]
    assert widths[0] > 1.5 * widths[1]  # three stages side by side


def test_stages_change_what_they_name_alone(recipe_outputs, workspace):
    output, _ = recipe_outputs
    start, align, expert, mixed = (
        state(f) for f in (workspace / "start", *(output / n for n in ("align", "expert", "model")))
    )
    assert all(".encoders." in n or ".connectors." in n or ".mlp." in n for n in changed_names(start, align))
    assert all(".mlp." in name for name in changed_names(align, expert))
    common = {name: value for name, value in mixed.items() if name in align}
    moved = changed_names({name: align[name] for name in common}, common)
    assert moved and all("self_attn" in name for name in moved)
    gate_up = mixed["model.language_model.layers.0.mlp.experts.gate_up_proj"]
    for number, source in enumerate((align, expert)):
        mlp = "model.language_model.layers.0.mlp"
        dense = torch.cat([source[f"{mlp}.gate_proj.weight"], source[f"{mlp}.up_proj.weight"]])
        delta = gate_up[number] - dense
        assert delta.abs().max() > 0 and torch.linalg.matrix_rank(delta, rtol=1e-3) <= 2


def test_the_result_is_an_ordinary_folder_that_answers(recipe_outputs, workspace):
    folder = recipe_outputs[0] / "model"
    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForMultimodalLM.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert "use_cache" not in config and config["text_config"]["use_cache"] is True
    row = json.loads((workspace / "data" / "spoken_word_train.jsonl").read_text().splitlines()[0])
    item = dict(row["messages"][0]["content"][0])
    item["path"] = str(workspace / "data" / item["path"])
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [item, {"type": "text", "text": "which word?"}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    generated = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert generated.shape[1] > inputs["input_ids"].shape[1]
    assert GenerationConfig.from_pretrained(folder).eos_token_id == processor.tokenizer.eos_token_id


def test_the_papers_name_stages_data_and_certificate(recipe_outputs):
    folder = recipe_outputs[0] / "model"
    history = json.loads((folder / "history.json").read_text())
    assert [(entry["stage"], entry["steps"], entry["samples"]) for entry in history] == [
        ("align", 2, 12),
        ("expert", 1, 6),
        ("mixed", 2, 12),
    ]
    card = (folder / "README.md").read_text()
    for text in (
        "image_kind_train.jsonl",
        "LoRA r=2: experts, attention",
        "## Certificate",
        "assemble, exact",
        "| align |",
    ):
        assert text in card
    assert json.loads((folder / "certificate.json").read_text())["operation"] == "assemble"
    assert "assemble:" in (folder / "stage.yaml").read_text()
    assert not (recipe_outputs[0] / "align" / "certificate.json").exists()


def test_logs_split_the_loss_and_show_each_modality_over_the_experts(recipe_outputs):
    first = read_metrics(recipe_outputs[0] / "model")[0]
    expected = first["loss_language"] + 0.01 * first["loss_balance"] + 0.001 * first["loss_z"]
    assert first["loss"] == pytest.approx(expected, rel=1e-4)
    loads = {key: value for key, value in first.items() if key.startswith("load_text/")}
    assert set(loads) == {"load_text/0", "load_text/1"} and sum(loads.values()) == pytest.approx(1, abs=1e-3)
    line = summarize(first)
    assert "balance" in line and "text 50/50" in line


TWO_STAGES = """
import json, sys, weakref
from training.stage.run import run_stage
from training.trainer import start
from training.config.stage import StageConfig

models, load_start = [], start.load_start

def load(config):
    print("alive:", [model() is not None for model in models])
    made = load_start(config)
    models.append(weakref.ref(made[0]))
    return made

start.load_start = load
for values in json.loads(sys.argv[1]):
    run_stage(StageConfig.model_validate(values))
"""


@pytest.mark.slow
@pytest.mark.parametrize("zero", [None, 2])
def test_a_stage_lets_go_of_its_model_before_the_next_one_is_loaded(make_stage, tmp_path, zero):
    stages = [make_stage(parallel={"zero": zero}, output=str(tmp_path / name)) for name in ("one", "two")]
    values = json.dumps([stage.model_dump() for stage in stages])
    command = [sys.executable, "-c", TWO_STAGES, values]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=True)
    assert re.findall(r"alive: (.*)", done.stdout) == ["[]", "[False]"]


@pytest.mark.parametrize("data", [{"mixture": ["nowhere.jsonl"]}, {"validation": ["nowhere.jsonl"]}])
def test_a_wrong_path_is_found_before_a_model_is_loaded(make_stage, monkeypatch, data):
    monkeypatch.setattr("training.trainer.start.load_start", lambda config: pytest.fail("a model was loaded"))
    with pytest.raises(DataError, match=r"There is no data file 'nowhere\.jsonl'"):
        run_stage(make_stage(data=data))


def test_the_same_seed_gives_the_same_model(make_stage, quiet, tmp_path):
    settings = {"train": {"parts": ["mlp", "connectors"]}, "trainer": {"max_steps": 2}}
    folders = [
        run_stage(
            make_stage(output=str(tmp_path / str(run)), seed=seed, data={"num_workers": workers}, **settings),
            console=quiet,
        )
        for run, (seed, workers) in enumerate([(0, 0), (1, 0), (0, 1)])
    ]
    assert not multiprocessing.active_children(), "workers end with the training"
    one, other, same = (state(folder) for folder in folders)
    assert not changed_names(one, same) and changed_names(one, other)


def test_an_epoch_that_ends_is_followed_by_another_order(make_stage, quiet, monkeypatch):
    seen = []
    compute = StageTrainer.compute_loss

    def spy(self, model, inputs, *args, **kwargs):
        seen.extend(inputs["row_ids"])
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "compute_loss", spy)
    stage = make_stage(trainer={"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 16})
    run_stage(stage, console=quiet)
    half = len(seen) // 2
    assert sorted(seen[:half]) == sorted(seen[half:]) and seen[:half] != seen[half:]


def assert_same_training(stages, console):
    """Run stages that should learn the same; compare their weights and first logs."""
    folders = [run_stage(stage, console=console) for stage in stages]
    expected, actual = map(state, folders)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-5, atol=1e-6)
    first, second = (read_metrics(folder)[0] for folder in folders)
    assert first.keys() == second.keys()
    for key in ("loss", "loss_language", *(key for key in first if key.startswith("load_"))):
        assert first[key] == pytest.approx(second[key], rel=1e-4)


PLAIN = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


def test_accumulated_batches_learn_what_one_large_batch_learns(make_stage, mixture_start, quiet, tmp_path):
    stages = [
        make_stage(
            start=mixture_start,
            train={"parts": ["router", "experts"]},
            trainer={"per_device_train_batch_size": rows, "gradient_accumulation_steps": batches, **PLAIN},
            output=str(tmp_path / f"of-{rows}"),
        )
        for rows, batches in ((8, 1), (2, 4))
    ]
    assert_same_training(stages, quiet)


def test_activation_checkpointing_changes_nothing(make_stage, mixture_start, quiet, tmp_path):
    stages = [
        make_stage(
            start=mixture_start,
            train={"parts": ["router", "experts"]},
            trainer={"activation_checkpointing": flag, "per_device_train_batch_size": 8, **PLAIN},
            output=str(tmp_path / str(flag)),
        )
        for flag in (False, True)
    ]
    assert_same_training(stages, quiet)


def test_a_loss_that_is_not_finite_stops_before_the_weights_and_names_the_rows(make_stage, quiet, workspace, tmp_path):
    stage = make_stage()
    model, processor, _ = load_start(stage)
    model.model.language_model.norm.weight.data.fill_(3e38)
    model.save_pretrained(tmp_path / "broken")
    processor.save_pretrained(tmp_path / "broken")
    with pytest.raises(NonFiniteLoss, match=r"not finite at step 1 .*Rows of the batch: .*-\d"):
        run_stage(make_stage(start=str(tmp_path / "broken")), console=quiet)


def test_a_wrong_start_part_or_argument_is_refused_plainly(make_stage, quiet):
    with pytest.raises(ConfigError, match="The start of the stage cannot be made"):
        run_stage(make_stage(start="no/such/folder"), console=quiet)
    with pytest.raises(ConfigError, match="no part 'router'"):
        run_stage(make_stage(train={"parts": ["router"]}), console=quiet)
    with pytest.raises(ConfigError, match="trainer: "):
        training_arguments(make_stage(trainer={"lr_scheduler_type": "cosinus"}))
    with pytest.raises(ConfigError, match="use_reentrant"):
        training_arguments(make_stage(trainer={"activation_checkpointing_kwargs": {"use_reentrant": True}}))


def test_expert_load_is_a_share_and_leaves_absent_modalities_out():
    counts = torch.zeros(2, 5, 3, dtype=torch.long)
    counts[0, 1] = torch.tensor([3, 1, 0])
    counts[1, 1] = torch.tensor([1, 1, 2])
    assert expert_load(counts) == {"load_image/0": 0.5, "load_image/1": 0.25, "load_image/2": 0.25}


def test_an_error_in_a_worker_process_reaches_the_command_line_as_one_message(make_stage, tmp_path):
    stage = make_stage(data={"max_length": 5, "num_workers": 1})
    file = tmp_path / "stage.yaml"
    file.write_text(json.dumps(stage.model_dump()))
    done = CliRunner().invoke(app, [str(file)])
    assert done.exit_code == 2 and "data.max_length is 5" in done.stderr and "Traceback" not in done.stderr
