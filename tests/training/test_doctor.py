"""`python -m training doctor`: planted failures are named with their cures, alone; healthy runs are called healthy."""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from documents import ROOT, prose
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from training.__main__ import app
from training.doctor.examine import examine, find_stages
from training.doctor.findings import KINDS
from training.doctor.rules import is_healthy
from training.stage import stage as stage_module
from training.stage.run import run_stage
from training.trainer import start as start_module
from unimoe.errors import ConfigError, DataError

EVERYTHING = {"parts": ["router", "experts", "attention", "norms", "connectors"]}
STEPS = {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 3e-3}


@pytest.fixture
def quiet():
    return Console(file=io.StringIO(), width=200)


def last_line(console):
    [line] = [line for line in console.file.getvalue().splitlines() if line.startswith("router: ")]
    return line


@pytest.fixture
def diagnose(make_stage, quiet):
    """Run a stage; return the names in its last line, and the examination of its output."""

    def run(**changes):
        changes = {"train": EVERYTHING, **changes}
        output = run_stage(
            make_stage(**{**changes, "trainer": {**STEPS, **changes.get("trainer", {})}}), console=quiet
        )
        said = last_line(quiet).removeprefix("router: ").partition(" (")[0]
        return said, examine(output, rows=12)

    return run


def names(examination):
    return [finding.name for finding in examination.findings if finding.kind.severity != "note"]


def make_copies(model):
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            for weights in layer.mlp.experts.parameters():
                weights.copy_(weights[:1].expand_as(weights))


def favour_the_first(model):
    for layer in model.model.language_model.layers:
        layer.mlp.router.modality_bias.data[:, 0] = 6.0


# Planted failures


def test_a_frozen_router_is_named(diagnose, make_sparse):
    said, found = diagnose(start=make_sparse(), train={"parts": ["experts", "attention", "norms", "connectors"]})
    assert said == "router_frozen" and names(found) == ["router_frozen"]
    assert "train.parts: [router" in found.findings[0].kind.cure
    assert all(layer.router_gradient > 1e-5 for layer in found.facts.layers), "it would learn"


def test_identical_experts_are_named_and_the_router_has_no_gradient(diagnose, make_sparse):
    said, found = diagnose(start=make_sparse(make_copies), train={"parts": ["router", "connectors"]})
    assert said == "experts_identical, experts_frozen" and names(found) == said.split(", ")
    assert "noise" in found.findings[0].kind.cure
    ratios = [layer.router_gradient / layer.experts_gradient for layer in found.facts.layers]
    assert max(ratios) < 1e-5, "to rounding"


def test_a_modality_that_is_never_routed_to_its_own_experts_is_named(diagnose, workspace):
    start = str(workspace / "start")
    assembled = {"base": start, "experts": {"image": [start, start]}, "base_experts": 2, "noise": 0.3, "exact": False}
    said, found = diagnose(start={"assemble": {**assembled, "router_bias": -9.0}})
    assert said == "group_without_tokens" and names(found) == ["group_without_tokens"]
    assert found.findings[0].modality == "image" and "router_bias" in found.findings[0].kind.cure


def test_a_modality_that_is_not_in_the_data_is_named(diagnose, make_sparse, workspace):
    groups = {"text": [0, 1], "speech": [2, 3]}
    start = make_sparse(modality_routing="isolated", expert_groups=groups)
    text = {"mixture": [str(workspace / "data" / "text_train.jsonl")]}
    said, found = diagnose(start=start, data=text)
    assert said == "modality_absent" and names(found) == ["modality_absent"]
    assert found.findings[0].modality == "speech" and "data.mixture" in found.findings[0].kind.cure


def test_a_collapse_without_a_balance_loss_is_named(diagnose, make_sparse):
    start = make_sparse(favour_the_first, modality_routing="bias", num_experts_per_tok=1)
    said, found = diagnose(start=start, train={**EVERYTHING, "losses": {"balance": 0.0}}, trainer={"max_steps": 12})
    assert said == "collapse" and names(found) == ["collapse"]
    assert "balance coefficient 0)" in found.findings[0].measured
    assert "train.losses.balance" in found.findings[0].kind.cure


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rates": {"experts": 1e-12}},
        pytest.param({"warm_up": {"parts": ["router", "connectors"], "steps": 50}}, marks=pytest.mark.slow),
    ],
)
def test_experts_that_do_not_move_are_named(diagnose, make_sparse, change):
    said, found = diagnose(start=make_sparse(), train={**EVERYTHING, **change})
    assert said == "experts_still" and names(found) == ["experts_still"]
    assert "train.learning_rates.experts" in found.findings[0].kind.cure
    assert found.findings[0].value < 1e-4


@pytest.mark.slow
def test_a_weight_of_one_is_named(diagnose, make_sparse):
    said, found = diagnose(start=make_sparse(num_experts_per_tok=1, norm_topk_prob=True))
    assert said == "weight_of_one" and names(found) == ["weight_of_one"]
    assert all(layer.router_gradient < 1e-5 * layer.experts_gradient for layer in found.facts.layers)


# Healthy runs

HALVES = {"text": [0, 1], "image": [2, 3], "audio": [4, 5], "speech": [6, 7]}
HEALTHY = [
    {},
    {"modality_routing": "bias", "router_type": "top_p", "router_top_p": 0.6, "num_experts_per_tok": 4},
    {"num_experts_per_tok": 1},
    {"modality_routing": "separate", "scoring_func": "sigmoid", "balance_bias": True},
    {"modality_routing": "isolated", "num_experts": 8, "expert_groups": HALVES, "num_experts_per_tok": 1},
    {"modality_routing": "semi_isolated", "num_experts": 10, "expert_groups": HALVES},
    {"router_type": "noisy_top_k", "num_null_experts": 1},
    {"router_type": "hierarchical", "n_group": 2, "modality_routing": "bias"},
    {"expert_type": "latent", "router_gradient": "dense"},
    {"router_gradient": "sparsemixer", "shared_expert_intermediate_size": 8},
    {"router_type": "expert_choice"},
    {"router_type": "hash", "num_experts_per_tok": 1},
    {"router_type": "soft", "slots_per_expert": 2},
]


@pytest.mark.parametrize(
    ("seed", "text"),
    [pytest.param(seed, text, marks=() if seed < 2 else pytest.mark.slow) for seed, text in enumerate(HEALTHY)],
    ids=[str(number) for number in range(len(HEALTHY))],
)
def test_a_healthy_run_is_called_healthy(diagnose, make_sparse, seed, text):
    parts = [part for part in EVERYTHING["parts"] if part != "router" or text.get("router_type") != "hash"]
    said, found = diagnose(start=make_sparse(**text), seed=seed, train={"parts": parts})
    assert said == "healthy" and names(found) == []
    assert is_healthy(found.findings) and all(layer.experts_gradient for layer in found.facts.layers)


@pytest.mark.slow
def test_experts_of_the_last_layer_that_only_media_reach_are_noted(diagnose, make_sparse):
    start = make_sparse(modality_routing="isolated", expert_groups={"text": [0, 1], "image": [2, 3]})
    said, found = diagnose(start=start)
    assert said == "healthy"
    [note] = [finding for finding in found.findings if finding.name == "experts_unread"]
    assert note.layers == (1,) and note.measured == "2 experts: 2, 3 of layer 1"


# The command


@pytest.fixture(scope="module")
def recipe(make_stage_in, workspace, tmp_path_factory):
    """A recipe's output: a dense stage, a mixture that begins with it, and one whose router is frozen after that."""
    output = tmp_path_factory.mktemp("doctor")
    quiet = Console(file=io.StringIO(), width=200)
    dense, first, second = output / "a", output / "z", output / "m"
    run_stage(make_stage_in(dense, train={"parts": ["mlp", "connectors"]}, trainer=STEPS), console=quiet)
    assembled = {"base": str(dense), "experts": {"speech": str(workspace / "start")}, "noise": 0.2, "exact": False}
    for folder, start, parts in (
        (first, {"assemble": assembled}, ["router", "experts", "norms"]),
        (second, str(first), ["experts"]),
    ):
        run_stage(make_stage_in(folder, start=start, train={"parts": parts}, trainer=STEPS), console=quiet)
    return output


def doctor(*arguments):
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def test_of_a_recipe_each_stage_with_a_mixture_is_examined_in_the_order_of_training(recipe):
    assert [folder.name for folder in find_stages(recipe)] == ["z", "m"]
    done = doctor(recipe, "--rows", 4)
    assert done.exit_code == 1, done.output
    first, second = done.output.split(str(recipe / "m"))
    assert "1 speech" in first and "router_frozen" not in first and "healthy" in first
    assert "router_frozen in layers 0-1: experts train, the router does not" in second
    assert "cure: `train.parts: [router, ...]`" in second


def test_a_healthy_stage_is_no_error_and_json_has_findings_and_facts(recipe):
    done = doctor(recipe / "z", "--rows", 4, "--json", "--processes", 2)
    [report] = json.loads(done.stdout)
    assert done.exit_code == 0 and report["findings"] == [], done.output
    facts = report["facts"]
    assert facts["own_experts"] == {"speech": [1]} and facts["processes"] == 2 and facts["examined_rows"] == 4
    assert 0 < facts["routed_gradient_share"] < 1 and 0 < facts["routed_shares"]["active"] < 1
    assert all(layer["router_gradient"] > 0 and min(layer["experts_moved"]) > 0 for layer in facts["layers"])


def test_examining_writes_nothing(recipe):
    before = {path: path.stat().st_mtime_ns for path in recipe.rglob("*")}
    doctor(recipe, "--rows", 2)
    assert before == {path: path.stat().st_mtime_ns for path in recipe.rglob("*")}


def test_the_same_run_gives_the_same_numbers(recipe):
    first, second = (examine(recipe / "z", rows=4).as_json() for _ in range(2))
    assert first == second


def test_without_its_start_a_stage_is_examined_but_for_how_far_it_moved(recipe, tmp_path):
    shutil.copytree(recipe / "m", tmp_path / "m")
    text = (tmp_path / "m/stage.yaml").read_text(encoding="utf-8").replace(str(recipe / "z"), str(tmp_path / "gone"))
    (tmp_path / "m/stage.yaml").write_text(text, encoding="utf-8")
    done = doctor(tmp_path / "m", "--rows", 2)
    assert "not examined: how far experts and routers moved: The start of the stage cannot be made" in done.output
    assert "router_frozen" in done.output


def refused(run, message, **options):
    with pytest.raises((ConfigError, DataError), match=message):
        for folder in find_stages(run):
            examine(folder, **{"rows": 2, **options})
    done = doctor(run, "--rows", options.get("rows", 2), *(["--processes", 3] if "processes" in options else []))
    assert done.exit_code == 2 and done.output.startswith("Error:") and "Traceback" not in done.output


def test_what_is_no_stage_with_experts_is_refused_plainly(recipe, workspace, tmp_path):
    refused(tmp_path / "nothing", "there is no such folder. Name the output folder of a stage")
    refused(tmp_path, r"is no output of a stage: it holds no stage\.yaml")
    refused(workspace / "start", r"is no output of a stage: it holds no stage\.yaml")
    refused(recipe / "a", "has no experts: its model is dense")
    (tmp_path / "dense").mkdir()
    shutil.copytree(recipe / "a", tmp_path / "dense/a")
    refused(tmp_path / "dense", r"no finished stage in it has experts \(a\)")
    (tmp_path / "dense/a/config.json").unlink()
    refused(tmp_path / "dense/a", r"its stage is unfinished \(no checkpoint\)")
    refused(recipe / "z", "2 experts cannot be shared out to 3 processes", processes=3)


def test_data_that_are_gone_are_named_and_need_not_be_there(recipe, tmp_path):
    shutil.copytree(recipe / "z", tmp_path / "z")
    stage = tmp_path / "z/stage.yaml"
    stage.write_text(stage.read_text(encoding="utf-8").replace("spoken_word_train", "gone"), encoding="utf-8")
    refused(tmp_path / "z", r"gone\.jsonl'.*--rows 0 examines")
    done = doctor(tmp_path / "z", "--rows", 0)
    assert done.exit_code == 0 and "not examined: gradients: --rows is 0" in done.output


def test_a_load_of_another_model_is_refused(recipe, tmp_path):
    shutil.copytree(recipe / "z", tmp_path / "z")
    metrics = tmp_path / "z/metrics.jsonl"
    metrics.write_text(metrics.read_text(encoding="utf-8").replace('"load": {"text": [[', '"load": {"text": [[7, '))
    refused(tmp_path / "z", "its load is none of this model", rows=0)


# The line at the end of a stage


def test_the_training_is_bit_identical_whether_it_is_examined_or_not(
    make_stage, make_sparse, quiet, monkeypatch, tmp_path
):
    start = make_sparse(router_type="noisy_top_k")
    stages = [make_stage(start=start, train=EVERYTHING, trainer=STEPS, output=str(tmp_path / name)) for name in "ab"]
    run_stage(stages[0], console=quiet)
    states = [torch.get_rng_state()]
    monkeypatch.setattr(start_module, "take_snapshot", lambda model: None)
    monkeypatch.setattr(stage_module, "mixture_line", lambda *args, **kwargs: None)
    run_stage(stages[1], console=quiet)
    states.append(torch.get_rng_state())
    one, other = (load_file(f"{stage.output}/model.safetensors") for stage in stages)
    assert torch.equal(*states) and all(torch.equal(one[name], other[name]) for name in one)
    assert quiet.file.getvalue().count("router: healthy") == 1


def test_a_stage_that_trains_no_mixture_says_nothing_of_it(make_stage, make_sparse, quiet, tmp_path):
    run_stage(make_stage(output=str(tmp_path / "dense")), console=quiet)
    run_stage(make_stage(start=make_sparse(), output=str(tmp_path / "frozen")), console=quiet)
    assert "router: " not in quiet.file.getvalue()


def test_a_stage_that_goes_on_is_compared_with_its_start(make_stage, make_sparse, quiet, monkeypatch):
    stage = make_stage(start=make_sparse(), train=EVERYTHING, trainer={**STEPS, "save_steps": 3})
    seen = []
    monkeypatch.setattr(stage_module, "mixture_line", lambda *args, before, **kwargs: seen.append(before))

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage_module, "save_stage", stop)
        run_stage(stage, console=quiet)
    run_stage(stage, console=quiet, resume=True)
    expected = examine(Path(stage.output), rows=0).facts.layers
    start = start_module.take_snapshot(start_module.load_weights(stage.start.path))
    assert all(torch.equal(seen[0].answers[layer.layer], start.answers[layer.layer]) for layer in expected)


def test_an_adapter_that_is_left_apart_is_said_to_be(make_stage, make_sparse, quiet):
    lora = {"parts": ["experts", "attention"], "r": 2, "merge": False}
    stage = make_stage(start=make_sparse(), train={"parts": ["router"], "lora": lora}, trainer=STEPS)
    run_stage(stage, console=quiet)
    assert "router: not examined, for the adapter of the stage is apart" in last_line(quiet)
    assert names(examine(Path(stage.output), rows=4)) == []


# The page


def test_the_table_of_the_page_is_that_of_the_code():
    text = prose(ROOT / "docs/doctor.md").partition("## Findings")[2]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert rows == [[f"`{name}`", kind.severity, kind.meaning, kind.cure] for name, kind in KINDS.items()]
