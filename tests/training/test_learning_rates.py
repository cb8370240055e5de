"""Each part has its own learning rate, parts rest while others warm up, and layers are a choice."""

import json
from pathlib import Path

import pytest
import torch
from launch import train
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForMultimodalLM, SchedulerType

from training.config.train import ScheduleSpan, TrainConfig
from training.config.training_arguments import training_arguments
from training.stage.run import run_stage
from training.trainable.optimizer import ParameterGroups
from training.trainable.parts import choose_trainable
from training.trainable.schedule import rate_factor
from training.trainer.specialists import own_schedules
from training.trainer.start import load_start
from unimoe.errors import ConfigError

PARTS = {"parts": ["connectors", "router"], "lora": {"parts": ["attention"], "r": 2}}


@pytest.fixture
def mixed(make_stage, mixture_start, tmp_path):
    """A stage on a mixture: router, connectors, LoRA on attention."""

    def make(train=None, steps=3, zero=None, **trainer):
        arguments = {"max_steps": steps, "learning_rate": 1e-3, "weight_decay": 0.1, **trainer}
        return make_stage(
            start=mixture_start,
            train={**PARTS, **(train or {})},
            trainer=arguments,
            parallel={"zero": zero},
            output=str(tmp_path / f"mixed-{zero}-{steps}"),
        )

    return make


def log(stage) -> list[dict]:
    return [json.loads(line) for line in (Path(stage.output) / "metrics.jsonl").read_text().splitlines()][:-1]


def weights(folder) -> dict:
    return AutoModelForMultimodalLM.from_pretrained(folder).state_dict()


def moved(stage, start) -> dict[str, float]:
    before, after = weights(start), weights(stage.output)
    return {name: float((after[name] - before[name]).abs().max()) for name in before}


def test_each_parameter_has_the_rate_of_the_smallest_part_that_has_one(mixed):
    rates = {"connectors": 2e-3, "connectors.image": 3e-3, "router": 4e-3}
    stage = mixed({"learning_rates": rates})
    model, _, _ = load_start(stage)
    groups = ParameterGroups.of(choose_trainable(model, stage.train), stage.train)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": plain}], lr=1e-3)
    groups.split(optimizer)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(decayed) + len(plain)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            part = next((p for p in ("connectors.image", "connectors", "router") if f".{p}." in f".{name}"), None)
            assert group["lr"] == rates.get(part, 1e-3), name
            assert (group["weight_decay"] == 0.1) == (parameter.dim() > 1)


def test_an_optimizer_that_passes_experts_by_is_refused(mixed):
    stage = mixed({"parts": ["router", "experts"]})
    model, _, _ = load_start(stage)
    groups = ParameterGroups.of(choose_trainable(model, stage.train), stage.train)
    flat = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.dim() < 3]
    with pytest.raises(ConfigError, match=r"AdamW does not reach all that trains: .*experts \(\d+ tensors\)"):
        groups.split(torch.optim.AdamW(flat))


def test_a_rate_of_its_own_moves_a_part_as_far_as_that_rate_for_all_does(mixed):
    """One step: what a part learns does not depend on the rates of others."""
    own, same = (mixed({"learning_rates": {"router": 5e-3}}, steps=1), mixed(steps=1, learning_rate=5e-3))
    same.output += "-same"
    for stage in (own, same):
        run_stage(stage)
    a, b = weights(own.output), weights(same.output)
    for name, value in a.items():
        if ".router." in name:
            torch.testing.assert_close(value, b[name], rtol=0, atol=1e-7)
        elif ".connectors." in name and name.endswith("weight"):
            assert not torch.equal(value, b[name]), name
    assert log(own)[0]["learning_rate/router"] == 5e-3 and log(own)[0]["learning_rate"] == 1e-3


def test_what_rests_does_not_move_until_the_others_are_warm(mixed, mixture_start):
    warm = mixed({"warm_up": {"parts": ["router"], "steps": 2}}, steps=2, lr_scheduler_type="constant")
    run_stage(warm)
    changes = moved(warm, mixture_start)
    assert all((change > 0) == (".router." in name and "permitted" not in name) for name, change in changes.items())
    joined = mixed({"warm_up": {"parts": ["router"], "steps": 2}}, steps=4, lr_scheduler_type="constant")
    run_stage(joined)
    assert any(change > 0 for name, change in moved(joined, mixture_start).items() if ".connectors." in name)


SHAPE = {"lr_scheduler_type": "cosine", "warmup_steps": 0.25}


def test_stages_that_share_a_schedule_have_the_rates_of_one_stage_once_a_new_optimizer_is_warm(mixed):
    whole = mixed(steps=8, **SHAPE)
    last = mixed({"schedule": {"begin": 0.375, "end": 1}}, steps=5, **SHAPE)
    run_stage(whole), run_stage(last)
    shared, rates = ([line["learning_rate"] for line in log(stage)] for stage in (whole, last))
    assert rates[2:] == shared[5:]
    assert rates[:2] == pytest.approx([shared[3] / 3, shared[4] * 2 / 3])  # a quarter of five steps: two


def test_parts_that_wait_join_a_shared_schedule_where_it_is(mixed):
    train = {"schedule": {"begin": 0.5, "end": 1}, "warm_up": {"parts": ["router"], "steps": 2}}
    stage = mixed(train, steps=4, **SHAPE)
    run_stage(stage)
    shared = rate_factor(training_arguments(stage), 8, span=None, asked_by="")
    rates = [line["learning_rate"] for line in log(stage)]
    assert rates == pytest.approx([1e-3 * shared(4) / 2, *(1e-3 * shared(step) for step in range(5, 8))])


def test_specialists_go_through_the_same_stretch_side_by_side(mixed):
    args = training_arguments(mixed(steps=6, **SHAPE))
    groups = [{"params": [torch.nn.Parameter(torch.zeros(()))], "specialist": key} for key in "ab"]
    scheduler = LambdaLR(torch.optim.SGD(groups, lr=1.0), lambda step: 1.0)
    turns, span = ["a", "b", "a", "a", "b", "a"], ScheduleSpan(begin=0.5, end=1)
    own_schedules(scheduler, turns, {"a": 4, "b": 2}, args, span)
    rates = [[factor(step) for step in range(6)] for factor in scheduler.lr_lambdas]
    of_a, of_b = (rate_factor(args, 2 * steps, span=None, asked_by="") for steps in (4, 2))
    assert rates[0] == [of_a(4) / 2, *(of_a(n) for n in (5, 5, 6, 7, 7))]
    assert rates[1] == [of_b(2) / 2, of_b(2) / 2, *(of_b(n) for n in (3, 3, 3, 4))]


def test_a_schedule_that_is_no_function_of_the_step_cannot_be_shared(mixed):
    args = training_arguments(mixed())
    args.lr_scheduler_type = SchedulerType.GREEDY
    with pytest.raises(ConfigError, match=r"greedy: train\.schedule needs a schedule that is a function of the step"):
        rate_factor(args, 4, span=None, asked_by="train.schedule")


@pytest.mark.distributed
def test_warm_up_and_rates_are_the_same_under_zero(mixed, tmp_path):
    settings = {"warm_up": {"parts": ["router"], "steps": 2}, "learning_rates": {"router": 4e-3}}
    one = mixed(settings, steps=5, per_device_train_batch_size=4)
    two = mixed(settings, steps=5, zero=2, per_device_train_batch_size=2)
    train(one, tmp_path / "stage.yaml")
    train(two, tmp_path / "stage.yaml", processes=2)
    expected, actual = weights(one.output), weights(two.output)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_only_the_layers_that_are_named_train(mixed, mixture_start):
    stage = mixed({"parts": ["router", "connectors"], "layers": ["1"]}, steps=2)
    run_stage(stage)
    for name, change in moved(stage, mixture_start).items():
        if ".router." in name or ("_proj" in name and ".language_model." in name and "mlp" not in name):
            assert (change > 0) == (".layers.1." in name), name
        elif ".connectors." in name and name.endswith("weight"):
            assert change > 0, "what is in no layer trains as it would"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"learning_rates": {"ruoter": 1e-3}}, "no part 'ruoter'. Did you mean 'router'"),
        ({"learning_rates": {"norms": 1e-3}}, "norms does not train in this stage"),
        ({"warm_up": {"parts": ["mlp2"], "steps": 1}}, "train.warm_up.parts: this model has no part"),
        ({"layers": [7]}, "there is no layer 7; the decoder has 2"),
    ],
)
def test_a_part_or_layer_that_is_not_there_is_named(mixed, train, message):
    with pytest.raises(ConfigError, match=message):
        run_stage(mixed(train))


def test_layers_are_numbers_and_ranges():
    assert TrainConfig(parts=["mlp"], layers=["8-11", 2, "9"]).layers == [2, 8, 9, 10, 11]
    for wrong in ("8-", "x", "9-8"):
        with pytest.raises(ValueError, match="no layer below 100,000, or range of layers"):
            TrainConfig(parts=["mlp"], layers=[wrong])
