"""What is measured while training: routing by layer, speed, memory; where it is written, tracked and drawn."""

import io
import json
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from launch import train
from rich.console import Console

from training.config.training_arguments import choose_trackers
from training.monitor.curves import CURVES_FILE, plot_curves, read_curves
from training.monitor.metrics import WALL_CLOCK, Meter, attended_tokens, expert_load, layer_load, router_entropy
from training.monitor.progress import summarize
from training.stage.run import run_stage
from unimoe.errors import ConfigError


@pytest.fixture
def quiet():
    return Console(file=io.StringIO(), width=200)


def metrics(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


# Routing


def test_undecided_routers_have_entropy_1_decided_ones_0_whatever_is_closed():
    closed = float("-inf")
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, closed, closed], [0.0, closed, closed, closed]])
    probs = logits.softmax(dim=-1)
    decided = torch.eye(4)[:3]
    sums = router_entropy([probs, decided], [logits, torch.zeros(3, 4)])
    torch.testing.assert_close(sums, torch.tensor([[2.0, 3.0], [0.0, 3.0]], dtype=torch.float64))


@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_padding_has_no_entropy(real):
    torch.manual_seed(0)
    logits = torch.randn(4, 5)
    mask = torch.tensor([real]).long()
    sums = router_entropy([logits.softmax(dim=-1)], [logits], mask)
    chosen = logits[mask[0].bool()]
    expected = router_entropy([chosen.softmax(dim=-1)], [chosen]) if any(real) else torch.zeros(1, 2).double()
    torch.testing.assert_close(sums, expected)


def test_the_load_of_the_layers_adds_up_to_the_load_of_the_model():
    counts = torch.randint(0, 9, (3, 5, 4))
    counts[:, 2] = 0
    layers = layer_load(counts)
    assert "video" not in layers
    shares = expert_load(counts)
    for key, load in layers.items():
        totals = torch.tensor(load).sum(dim=0).double()
        assert [shares[f"load_{key}/{e}"] for e in range(4)] == pytest.approx(
            (totals / totals.sum()).tolist(), abs=1e-4
        )


# The meter


def test_time_between_steps_is_no_time_of_the_training_and_fetching_is_waiting():
    meter, accelerator = Meter(), Accelerator(cpu=True)
    for _ in range(2):
        meter.begin_step(lambda: time.sleep(0.05))
        time.sleep(0.05)
        meter.end_step()
        time.sleep(0.3)  # a checkpoint
    meter.tokens = torch.tensor(1000)
    numbers, details = meter.collect(accelerator)
    assert 0.3 < numbers["data_wait"] < 0.7 and 2000 < numbers["tokens_per_second"] <= 5000
    assert numbers["tokens"] == 1000
    assert numbers["memory_reserved_gb"] >= numbers["memory_gb"] > 0 and details == {}
    assert meter.collect(accelerator)[0]["tokens_per_second"] == 0, "it begins anew"


def test_a_packed_batch_counts_all_its_tokens():
    ids = torch.zeros(2, 3)
    assert attended_tokens({"input_ids": ids}) == 6
    assert attended_tokens({"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}) == 3


def test_a_stage_writes_the_load_of_each_modality_and_layer(make_stage, mixture_start, quiet):
    stage = make_stage(start=mixture_start, train={"parts": ["router"]}, trainer={"max_steps": 2})
    run_stage(stage, console=quiet)
    lines = [line for line in metrics(stage.output) if "loss" in line]
    assert len(lines) == 2
    for line in lines:
        assert line["grad_norm"] > 0 and line["learning_rate"] > 0 and line["tokens_per_second"] > 0
        assert 0 <= line["data_wait"] <= 1 and line["memory_gb"] > 0.1
        layers = torch.tensor(list(line["load"].values())).sum(dim=(0, 2))  # assignments of each layer
        assert len(layers) == 2 and layers[0] == layers[1] > 0
        assert 0 <= line["router_entropy"] <= 1 and len(line["router_entropy_layers"]) == 2
    state = json.loads(json.dumps(lines[0]))
    assert not set(WALL_CLOCK) - state.keys()


def test_tokens_per_second_are_those_of_the_rows(make_stage, quiet, monkeypatch):
    seen = []
    collect = Meter.collect

    def spy(self, accelerator):
        seen.append((int(self.tokens), self.seconds))
        return collect(self, accelerator)

    monkeypatch.setattr(Meter, "collect", spy)
    stage = make_stage(trainer={"max_steps": 2, "gradient_accumulation_steps": 2})
    run_stage(stage, console=quiet)
    lines = [line for line in metrics(stage.output) if "loss" in line]
    for (tokens, seconds), line in zip(seen, lines, strict=True):
        assert tokens > 0 and line["tokens_per_second"] == pytest.approx(tokens / seconds, rel=1e-3)


def test_many_experts_are_shown_by_those_that_are_used_most():
    logs = {"loss": 1.0, **{f"load_image/{e}": (0.5 if e == 9 else 0.3 if e == 2 else 0.02) for e in range(12)}}
    assert "image e9 50 e2 30 e0 2" in summarize(logs)
    assert "text 25/75" in summarize({"loss": 1.0, "load_text/0": 0.25, "load_text/1": 0.75})


@pytest.mark.distributed
def test_the_gradient_norm_under_deepspeed_is_that_without(make_stage, mixture_start, tmp_path):
    found = []
    for processes, zero in ((1, None), (2, 2)):
        stage = make_stage(
            start=mixture_start,
            train={"parts": ["connectors", "router"], "losses": {"balance": 0}},
            trainer={"max_steps": 2, "per_device_train_batch_size": 8 // processes, "max_grad_norm": 0.5},
            parallel={"zero": zero},
            output=str(tmp_path / str(zero)),
        )
        train(stage, tmp_path / "stage.yaml", processes=processes if zero else 0)
        found.append([line for line in metrics(stage.output) if "loss" in line])
    for one, two in zip(*found, strict=True):
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
        assert two["router_entropy"] == pytest.approx(one["router_entropy"], abs=2e-4)
        assert two["rows"] == one["rows"]


# Trackers


def test_tensorboard_files_are_in_the_output_and_hold_the_losses(make_stage, workspace, quiet):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage = make_stage(
        trainer={"max_steps": 2, "report_to": ["tensorboard"]},
        data={
            "mixture": [str(workspace / "data" / "image_kind_train.jsonl")],
            "validation": [str(workspace / "data" / "text_train.jsonl")],
        },
    )
    run_stage(stage, console=quiet)
    events = EventAccumulator(str(Path(stage.output) / "logs"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train/loss", "train/grad_norm", "train/tokens_per_second", "eval/loss"} <= set(tags)
    expected = [line["loss"] for line in metrics(stage.output) if "loss" in line]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(expected)
    assert not (Path(stage.output) / "runs").exists()


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_loaded(make_stage, quiet, monkeypatch):
    monkeypatch.setattr("training.trainer.start.load_start", lambda config: pytest.fail("a model was loaded"))
    with pytest.raises(ConfigError, match=r"report_to: no tracker 'tensorbord'\. Did you mean 'tensorboard'"):
        run_stage(make_stage(trainer={"report_to": ["tensorbord"]}), console=quiet)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("wandb", "trackio", "tensorboard"):
        with pytest.raises(ConfigError, match=rf"{name} is not installed\. Run: pip install {name}"):
            run_stage(make_stage(trainer={"report_to": name}), console=quiet)
    assert choose_trackers({}) == [] and choose_trackers({"report_to": "none"}) == ["none"]


STAND_IN = """
import json
__version__ = "0.0"
calls, run, config = [], None, type("C", (dict,), {"update": lambda self, *a, **k: None})()
class Run:
    url, name, id = "", "stand-in", "0"
    def __init__(self): self.config, self.summary = config, {}
    def __setattr__(self, name, value): self.__dict__[name] = value
    def _label(self, **k): pass
def init(**kwargs):
    global run
    run = Run(); calls.append(("init", kwargs)); return run
def log(values, **kwargs): calls.append(("log", values))
def finish(*a, **k): calls.append(("finish", {}))
def define_metric(*a, **k): pass
def watch(*a, **k): pass
def setup(*a, **k): pass
class _Var:
    def get(self): return None
class context_vars: current_space_id = _Var()
"""


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_on_the_network_get_every_log(make_stage, quiet, monkeypatch, tmp_path, name):
    """By a stand-in for the package: what is checked is that the stage's numbers reach its `log`."""
    package = tmp_path / "packages" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    (package / "sdk" / "lib").mkdir(parents=True)
    (package / "sdk" / "lib" / "config_util.py").write_text("class ConfigError(Exception): pass")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = "transformers.integrations.integration_utils"
    monkeypatch.setattr(f"{module}.is_{name}_available", lambda: True)
    monkeypatch.setenv("WANDB_DISABLED", "")
    run_stage(make_stage(trainer={"max_steps": 2, "report_to": [name]}), console=quiet)
    calls = sys.modules[name].calls
    logged = [values for call, values in calls if call == "log"]
    losses = [values["train/loss"] for values in logged if "train/loss" in values]
    assert len(losses) == 2 and all(loss > 0 for loss in losses)
    kind, given = calls[0]
    assert kind == "init" and given["name"] == "output"


# Curves


def test_curves_show_the_training_and_each_validation_file(make_stage, workspace, quiet, curves):
    validation = [str(workspace / "data" / f"{name}_train.jsonl") for name in ("spoken_word", "sound_kind")]
    data = {"mixture": [str(workspace / "data" / "image_kind_train.jsonl")], "validation": validation}
    stage = make_stage(data=data, trainer={"max_steps": 2, "eval_steps": 1})
    folder = run_stage(stage, console=quiet)
    found = read_curves(folder / "metrics.jsonl")
    names = ["validation", "validation spoken_word_train", "validation sound_kind_train", "training"]
    shuffled = [f"shuffled media: {name}" for name in names[:3]]
    assert [name for name in found if name not in shuffled] == [*names, "label prior: training"]
    assert set(shuffled) < set(found), "the labels of these files are in none that trains: they have no prior"
    assert [step for step, _ in found["validation"]] == [0, 1, 2] and [s for s, _ in found["training"]] == [1, 2]
    assert (folder / CURVES_FILE).read_bytes().startswith(b"\x89PNG")
    both = folder / "both.png"
    assert plot_curves({"a": folder, "none": folder.parent, "b": folder}, both) and both.stat().st_size > 1000


def test_without_matplotlib_or_without_losses_there_is_no_picture(tmp_path, monkeypatch):
    assert not plot_curves({"a": tmp_path}, tmp_path / "a.png")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss_language": 2.0}\n')
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not plot_curves({"a": tmp_path}, tmp_path / "a.png") and not list(tmp_path.glob("*.png"))
