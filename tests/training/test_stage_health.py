"""What goes wrong in silence is named: dead experts, parts without a gradient, frozen stages, values that are NaN."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from launch import ROOT, environment
from rich.console import Console
from torch import nn
from transformers import AutoModelForMultimodalLM, AutoProcessor, TrainerState

from training.config.train import HealthConfig
from training.data import DataError
from training.monitor.experts import DeadExperts
from training.monitor.gradients import check_learning_rate, smallest_parts
from training.monitor.values import NonFiniteLoss, WatchLoss, find_bad_gradients
from training.stage.run import run_stage
from training.trainable.parts import Trainable
from training.trainer.trainer import StageTrainer
from unimoe import UniMoETextConfig
from unimoe.errors import ConfigError


@pytest.fixture
def quiet():
    return Console(file=io.StringIO(), width=200)


def metrics(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def history(folder):
    return json.loads((Path(folder) / "history.json").read_text())[-1]


def close_expert(layer, expert):
    def change(model):
        router = model.model.language_model.layers[layer].mlp.router
        router.modality_bias.data[..., expert] = -1e4

    return change


# Dead experts


def text_config(**values):
    return UniMoETextConfig(num_hidden_layers=2, num_experts=3, num_experts_per_tok=1, **values)


@given(st.lists(st.lists(st.integers(0, 1), min_size=6, max_size=6), min_size=1, max_size=12), st.integers(1, 6))
def test_an_expert_is_dead_exactly_if_it_had_no_token_in_the_window(loads, steps):
    experts = DeadExperts(text_config(), steps=steps)
    for number, load in enumerate(loads, start=1):
        experts.add({"text": [load[:3], load[3:]]}, steps=1)
        window = torch.tensor(loads[max(number - steps, 0) : number]).sum(dim=0)
        expected = {divmod(index, 3) for index in range(6) if window[index] == 0} if number >= steps else set()
        assert experts.known == expected


def test_a_dead_expert_is_named_once_with_what_the_modalities_chose_and_again_if_it_dies_again():
    experts = DeadExperts(text_config(decoder_sparse_step=2), steps=2)
    dead = {"image": [[6, 2, 0]], "text": [[0, 5, 0]]}
    assert experts.add(dead, steps=1) == []
    [sentence] = experts.add(dead, steps=1)
    assert sentence.startswith("Layer 1, expert 2 is dead: no token of any modality chose it in the last 2 steps")
    assert "image: expert 0 75%, expert 1 25%" in sentence and "text: expert 1 100%" in sentence
    assert experts.named() == {"1": [2]}
    assert experts.add(dead, steps=1) == []
    assert experts.add({"text": [[1, 1, 1]]}, steps=1) == [] and experts.named() == {}
    assert len(experts.add(dead, steps=2)) == 1


def test_experts_of_a_task_that_is_off_are_not_dead():
    text = text_config(reserved_experts={"task_ocr": [2]})
    load = {"text": [[3, 1, 0], [2, 2, 0]]}
    assert DeadExperts(text, steps=1).add(load, steps=1) == []
    text.active_task = "ocr"
    assert len(DeadExperts(text, steps=1).add(load, steps=1)) == 2


def test_an_expert_of_a_group_that_nothing_came_for_is_not_blamed_on_the_router():
    groups = {"modality_routing": "isolated", "expert_groups": {"text": [0, 1], "image": [2]}}
    experts = DeadExperts(text_config(**groups), steps=1)
    sentences = experts.add({"text": [[3, 1, 0], [2, 2, 0]]}, steps=1)
    assert [sentence.partition(":")[0] for sentence in sentences] == ["Layer 0, expert 2", "Layer 1, expert 2"]
    assert all("no token that may reach it came" in sentence and "image" in sentence for sentence in sentences)


def test_null_experts_are_never_dead():
    experts = DeadExperts(text_config(num_null_experts=1), steps=1)
    assert experts.add({"text": [[1, 1, 1, 0]] * 2}, steps=1) == []


def test_a_stage_names_its_dead_expert_in_the_log_the_metrics_and_the_history(make_stage, make_sparse, quiet):
    start = make_sparse(close_expert(layer=1, expert=3), modality_routing="bias")
    stage = make_stage(
        start=start,
        train={"parts": ["connectors", "experts"], "health": {"dead_expert_steps": 2}},
        trainer={"max_steps": 3, "per_device_train_batch_size": 8},
    )
    run_stage(stage, console=quiet)
    shown = quiet.file.getvalue()
    assert (
        shown.count("Layer 1, expert 3 is dead") == 1
        and "expert 3 is dead" not in shown.replace("Layer 1", "", 1)[: shown.index("Layer 1, expert 3")]
    )
    lines = [line for line in metrics(stage.output) if "loss" in line]
    assert [line.get("dead_experts") for line in lines] == [None, {"1": [3]}, {"1": [3]}]
    assert any("Layer 1, expert 3" in warning for warning in history(stage.output)["warnings"])


def test_a_stage_that_goes_on_remembers_the_load_before(make_stage, make_sparse, quiet, monkeypatch, tmp_path):
    start = make_sparse(close_expert(layer=0, expert=1), modality_routing="bias")
    changes = {"parts": ["connectors"], "health": {"dead_expert_steps": 4}}
    stage, unbroken = (
        make_stage(start=start, train=changes, trainer={"max_steps": 5, "save_steps": 2}, output=str(tmp_path / name))
        for name in ("broken", "unbroken")
    )
    step = StageTrainer.training_step

    def stop_at_three(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StageTrainer, "training_step", stop_at_three)
        run_stage(stage, console=quiet)
    run_stage(stage, console=quiet, resume=True)
    run_stage(unbroken, console=quiet)
    dead = [line.get("dead_experts") for line in metrics(unbroken.output)]
    assert dead == [line.get("dead_experts") for line in metrics(stage.output)] and dead[3] == {"0": [1]}


def test_a_stage_shorter_than_the_window_is_looked_at_as_a_whole(make_stage, make_sparse, quiet):
    start = make_sparse(close_expert(layer=0, expert=2), modality_routing="bias")
    stage = make_stage(start=start, train={"parts": ["experts"]}, trainer={"max_steps": 2})
    run_stage(stage, console=quiet)
    assert "Layer 0, expert 2 is dead: no token of any modality chose it in the last 2 steps" in quiet.file.getvalue()


# Nothing trains


def test_a_learning_rate_of_zero_and_a_frozen_model_are_refused_before_the_first_step(make_stage, quiet):
    stage = make_stage(trainer={"learning_rate": 0.0})
    with pytest.raises(ConfigError, match=r"learning_rate is 0, so that nothing would train of connectors\.audio"):
        run_stage(stage, console=quiet)
    assert not (Path(stage.output) / "metrics.jsonl").exists()
    frozen = Trainable({"router": [nn.Parameter(torch.zeros(1), requires_grad=False)]})
    with pytest.raises(ConfigError, match=r"Everything is frozen: router\. Name parts"):
        check_learning_rate(frozen, 0.1)


def test_parts_that_the_data_never_reach_are_named_before_the_first_step(make_stage, workspace, quiet):
    text = {"mixture": [str(workspace / "data" / "text_train.jsonl")]}
    stage = make_stage(train={"parts": ["connectors.image", "encoders.speech"]}, data=text)
    with pytest.raises(ConfigError, match=r"Nothing would train: .*connectors\.image, encoders\.speech, only text"):
        run_stage(stage, console=quiet)
    assert not (Path(stage.output) / "metrics.jsonl").exists()
    run_stage(make_stage(train={"parts": ["connectors.image", "mlp"]}, data=text), console=quiet)
    assert "no row for connectors.image, only text: this part will not change" in quiet.file.getvalue()


def test_a_part_without_a_gradient_is_named_after_the_first_step_and_stops_a_stage_if_all_are(
    make_stage, workspace, quiet
):
    stream = {"mixture": [{"path": str(workspace / "data" / "text_train.jsonl"), "stream": True}]}
    health = {"no_gradient_steps": 2}
    alone = make_stage(train={"parts": ["connectors.image"], "health": health}, data=stream, trainer={"max_steps": 4})
    with pytest.raises(ConfigError, match=r"No gradient in 2 step\(s\): connectors\.image \(is there image or video"):
        run_stage(alone, console=quiet)
    assert "No gradient in the first step: connectors.image" in quiet.file.getvalue()
    beside = make_stage(
        train={"parts": ["connectors.image", "mlp"], "health": health},
        data=stream,
        trainer={"max_steps": 4},
        output=alone.output + "-2",
    )
    run_stage(beside, console=quiet)
    warnings = history(beside.output)["warnings"]
    assert [warning.partition(":")[0] for warning in warnings] == [
        "No gradient in the first step",
        "No gradient in 2 step(s)",
    ]
    assert not any("mlp" in warning for warning in warnings)


def test_parts_with_gradients_are_not_named(make_stage, mixture_start, quiet):
    stage = make_stage(
        start=mixture_start,
        train={"parts": ["router", "connectors"], "lora": {"parts": ["experts", "attention"], "r": 2}},
        trainer={"per_device_train_batch_size": 24},
    )
    run_stage(stage, console=quiet)
    assert "warnings" not in history(stage.output), "low-rank deltas begin with a gradient of zero on one side"


def test_the_smallest_parts_have_each_parameter_once(workspace):
    model = AutoModelForMultimodalLM.from_pretrained(workspace / "start")
    parameters = dict(model.named_parameters())
    trainable = Trainable({part: [parameters[name] for name in names] for part, names in model.parts().items()})
    parts = smallest_parts(trainable)
    found = [id(parameter) for members in parts.values() for parameter in members]
    assert sorted(found) == sorted(id(each) for each in parameters.values() if each.requires_grad)
    assert "connectors" not in parts and "connectors.image" in parts


# Values that are not finite


@pytest.mark.parametrize("packing", [False, True])
def test_a_row_whose_loss_is_nan_is_named_among_the_rows_of_its_batch(make_stage, workspace, quiet, tmp_path, packing):
    model = AutoModelForMultimodalLM.from_pretrained(workspace / "start")
    next(model.model.connectors["speech"].parameters()).data.fill_(1e38)
    model.save_pretrained(tmp_path / "broken")
    AutoProcessor.from_pretrained(workspace / "start").save_pretrained(tmp_path / "broken")
    stage = make_stage(start=str(tmp_path / "broken"), trainer={"per_device_train_batch_size": 24, "max_steps": 1})
    with pytest.raises(NonFiniteLoss, match=r"Rows of the batch: .*Not finite in: ") as raised:
        run_stage(stage, console=quiet)
    culprits = str(raised.value).partition("Not finite in: ")[2].partition(".")[0].split(", ")
    assert culprits and all(row.startswith("spoken_word") for row in culprits)


def test_a_gradient_that_is_nan_under_a_finite_loss_stops_before_the_weights(make_stage, quiet, monkeypatch):
    seen = {}
    step = StageTrainer.training_step

    def poison(self, model, *args, **kwargs):
        name, parameter = next(
            (name, each) for name, each in self.model.named_parameters() if each.requires_grad and "image" in name
        )
        seen.update(name=name, trainer=self, before=parameter.detach().clone(), parameter=parameter)
        hook = parameter.register_hook(lambda gradient: gradient * float("nan"))
        try:
            return step(self, model, *args, **kwargs)
        finally:
            hook.remove()

    monkeypatch.setattr(StageTrainer, "training_step", poison)
    stage = make_stage(trainer={"per_device_train_batch_size": 12})
    with pytest.raises(NonFiniteLoss, match=r"finite but a gradient is not, at step 1: .*Rows of the step") as raised:
        run_stage(stage, console=quiet)
    assert seen["name"] in str(raised.value) and "image_kind" in str(raised.value)
    assert torch.equal(seen["before"], seen["parameter"])


POISONED = """
import json, sys
from training.config.stage import StageConfig
from training.stage.run import run_stage
from training.trainer.trainer import StageTrainer
step = StageTrainer.training_step
def poison(self, *args, **kwargs):
    parameter = next(each for each in self.model.parameters() if each.requires_grad)
    hook = parameter.register_hook(lambda gradient: gradient * float("nan"))
    try:
        return step(self, *args, **kwargs)
    finally:
        hook.remove()
StageTrainer.training_step = poison
run_stage(StageConfig.model_validate(json.loads(sys.argv[1])))
"""


@pytest.mark.distributed
def test_a_gradient_that_is_nan_under_deepspeed_stops_before_anything_is_saved(make_stage):
    stage = make_stage(parallel={"zero": 2}, trainer={"per_device_train_batch_size": 12, "save_steps": 1})
    command = [sys.executable, "-c", POISONED, json.dumps(stage.model_dump())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode != 0 and "a gradient is not, at step 1" in done.stderr and "image_kind" in done.stderr
    assert not list(Path(stage.output).glob("**/*.safetensors"))


def test_a_loss_of_zero_is_warned_of_once():
    said = []
    watch, state = WatchLoss(said.append), TrainerState(global_step=7, is_world_process_zero=True)
    for loss in (0.5, 0.0, 0.0):
        watch.on_log(None, state, None, logs={"loss": 1.0, "loss_language": loss})
    assert len(said) == 1 and "exactly 0 at step 7" in said[0]


def test_gradients_that_are_large_are_no_nan():
    layer = nn.Linear(2, 2)
    assert find_bad_gradients(layer) == []
    layer.weight.grad = torch.full((2, 2), 1e30)
    assert find_bad_gradients(layer) == [] or torch.isfinite(layer.weight.grad).all()
    layer.bias.grad = torch.tensor([1.0, float("inf")])
    assert find_bad_gradients(layer) == ["bias"]


def test_a_sound_with_nan_names_the_row_and_the_file(make_stage, write_jsonl, tmp_path, quiet):
    import soundfile

    samples = np.zeros(8000, dtype=np.float32)
    samples[100] = np.nan
    soundfile.write(tmp_path / "bad.wav", samples, 16000, subtype="FLOAT")
    content = [{"type": "speech", "path": "bad.wav"}, {"type": "text", "text": "which word?"}]
    row = {"id": "row-7", "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "go"}]}
    with pytest.raises(DataError, match=r"row-7") as raised:
        run_stage(make_stage(data={"mixture": [str(write_jsonl(row))]}), console=quiet)
    assert "bad.wav" in str(raised.value)


@pytest.mark.parametrize("packing", [False, True])
def test_a_loss_mask_of_zeros_names_the_row(make_stage, workspace, write_jsonl, quiet, tmp_path, packing):
    processor = AutoProcessor.from_pretrained(workspace / "start")
    words = "{% for item in message.content %}{{ item.text.replace('-', '') }}{% endfor %}"
    processor.chat_template = (  # one that marks the answer's words alone, not its end, and loses dashes
        "{% for message in messages %}{% if message.role == 'assistant' %}"
        f"{{% generation %}}{words}{{% endgeneration %}}{{% else %}}{words}{{% endif %}}\n{{% endfor %}}"
    )
    processor.save_pretrained(tmp_path / "start")
    AutoModelForMultimodalLM.from_pretrained(workspace / "start").save_pretrained(tmp_path / "start")
    rows = [
        {"id": name, "messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": answer}]}
        for name, answer in (("good", "b"), ("empty-answer", "-"))
    ]
    data = {"mixture": [str(write_jsonl(*rows))], "packing": packing, "max_length": 200}
    with pytest.raises(DataError, match=r"empty-answer\)?: no token of the assistant to learn") as raised:
        run_stage(make_stage(start=str(tmp_path / "start"), data=data, train={"parts": ["mlp"]}), console=quiet)
    assert "good" not in str(raised.value)


def test_checks_can_be_turned_off_and_have_defaults():
    assert HealthConfig() == HealthConfig(dead_expert_steps=100, no_gradient_steps=100)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        HealthConfig(dead_expert_steps=-1)
