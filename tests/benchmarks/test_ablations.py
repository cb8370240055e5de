"""The ablations: variants differ in what their names say, shared stages are trained once, nothing is done twice."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

from benchmarks import ablations
from benchmarks.ablations import (
    CONFIGS,
    Ablation,
    Settings,
    Step,
    load_ablations,
    main,
    needed_stages,
    plan_steps,
    run_steps,
)
from benchmarks.ablations_table import describe, put_section
from evaluation.config import load_config
from training.config.recipe import Recipe, load_recipe
from training.config.stage import StageConfig
from unimoe.errors import ConfigError

RECIPE = Ablation.model_fields["recipe"].default
ROOT = Path(__file__).parents[2]
app = Typer()
app.command()(main)


def settings(out: Path, limit: int | None = None) -> Settings:
    return Settings(out, scale=0.01, limit=limit)


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    return {key: value for name in values for key, value in flat(values[name], f"{prefix}.{name}").items()}


@pytest.mark.parametrize(
    ("stage", "differing"),
    [
        ("top_p", {"num_experts_per_tok", "moe.router_type", "moe.router_top_p"}),
        ("no_balance", {"losses.balance"}),
        ("copies", {"base", "experts.image", "experts.speech", "experts.audio"}),
        ("eight", {"base_experts", "copies"}),
    ],
)
def test_a_variant_differs_from_the_mixture_in_what_its_name_says(stage: str, differing: set[str]) -> None:
    stages = load_recipe(RECIPE).stages
    variant, mixture = (flat(stages[name].model_dump()) for name in (stage, "mixed"))
    keys = {key for key in {**variant, **mixture} if variant.get(key) != mixture.get(key)} - {".output"}
    assert {key.removeprefix(".start.assemble.").removeprefix(".train.") for key in keys} == differing


def test_every_variant_has_seen_as_many_rows() -> None:
    stages = load_recipe(RECIPE).stages
    steps = {name: stage.trainer["max_steps"] for name, stage in stages.items()}
    specialists = sum(steps[f"expert_{key}"] for key in ("image", "speech", "audio"))
    assert specialists == steps["generalist"] == steps["generalist_wide"] and steps["align"] == steps["align_wide"]
    assert len({steps[name] for found in load_ablations([]).values() for name in found.variants.values()}) == 1
    assert len({stage.trainer["per_device_train_batch_size"] for stage in stages.values()}) == 1


def test_every_comparison_names_stages_of_the_recipe_and_its_own_command() -> None:
    assert set(load_ablations([])) == {"router", "balance", "experts", "number"}
    files = [path for path in CONFIGS.glob("*.yaml") if path != RECIPE]
    assert set(load_ablations([]) | load_ablations(["quickstart"])) == {path.stem for path in files}
    for name in (path.stem for path in files):
        assert f"--only {name}" in (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    with pytest.raises(ConfigError, match="Did you mean 'router'"):
        load_ablations(["rooter"])


def test_a_comparison_may_be_of_another_recipe_alone(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    comparison = "title: a\nquestion: b\nagainst: x\nvariants: {x: align}\n"
    file.write_text(f"{comparison}recipe: configs/quickstart/quickstart.yaml\n")
    assert load_ablations([str(file)])["own"].recipe == Path("configs/quickstart/quickstart.yaml")
    with pytest.raises(ConfigError, match="own, router: these are of several recipes"):
        load_ablations([str(file), "router"])


def test_a_stage_needs_those_in_whose_outputs_its_start_lies() -> None:
    stage = {"train": {"parts": ["mlp"]}, "data": {"mixture": [{"path": "a"}]}, "trainer": {"max_steps": 2}}
    starts = {
        "align": "start",
        "specialists": {"specialists": {"base": "o/align", "modalities": ["image", "audio"]}},
        "mixed": {"assemble": {"base": "o/align", "experts": {"image": "o/specialists/image"}}},
    }
    stages = {name: StageConfig(start=start, output=f"o/{name}", **stage) for name, start in starts.items()}
    recipe = Recipe(stages, "o", 0, {})
    assert [needed_stages(recipe, name) for name in stages] == [[], ["align"], ["align", "specialists"]]


def test_what_variants_share_is_trained_once_for_each_seed(tmp_path: Path) -> None:
    graph = plan_steps(load_ablations([]), settings(tmp_path), seeds=2)
    names = [str(step) for step in graph]
    assert len(names) == len(set(names)) and "align-1" in names and "measure-mixed-0" in names
    assert graph[Step("mixed", 1)] == {
        Step(name, 1) for name in ("align", "expert_image", "expert_speech", "expert_audio")
    }
    assert graph[Step("align_wide", 0)] == {Step("data", 0)}
    few = {step.name for step in plan_steps(load_ablations(["balance"]), settings(tmp_path), seeds=2)}
    assert few & {"generalist", "align_wide", "top_p"} == set()


def test_seeds_change_weights_rows_and_routers(tmp_path: Path) -> None:
    first, second = (settings(tmp_path).recipe(seed).stages["top_p"] for seed in (0, 1))
    assert (first.seed, second.seed) == (0, 1) and str(tmp_path / "seed-1") in second.output
    assert [stage.start.assemble.model_extra["seed"] for stage in (first, second)] == [0, 1]
    assert Step("data", 1).command(settings(tmp_path))[-1] == "seed=1"


def test_commands_measure_the_model_that_was_trained(tmp_path: Path) -> None:
    training = Step("top_p", 1).command(settings(tmp_path))
    assert training[3:6] == ["--resume", "--only", "top_p"]
    model, output = tmp_path / "seed-1" / "top_p", tmp_path / "top_p-1"
    measuring = Step("measure top_p", 1).command(settings(tmp_path, limit=5))
    assert str(model) in measuring and f"output={output}" in measuring and "tasks.vqa.limit=5" in measuring


def write_results(folder: Path, fingerprint: str, limit: int | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"tasks": {task: {"limit": limit} for task in load_config(settings(folder).evaluation).tasks}}
    (folder / "results.json").write_text(json.dumps({"model": {"fingerprint": fingerprint}, "config": config}))


def test_an_evaluation_of_another_model_or_of_other_rows_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablations, "model_fingerprint", lambda folder: "of this model")
    step, asked = Step("measure mixed", 0), settings(tmp_path, limit=5)
    assert not step.is_done(asked)
    for fingerprint, limit, done in (
        ("of another", 5, False),
        ("of this model", 9, False),
        ("of this model", 5, True),
    ):
        write_results(tmp_path / "mixed-0", fingerprint, limit)
        assert step.is_done(asked) is done
    assert not step.is_done(settings(tmp_path)), "all rows are asked for, five were measured"


def test_steps_run_after_those_that_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Step] = []
    monkeypatch.setattr(ablations, "run_step", lambda step, *_, **__: ran.append(step))
    graph = plan_steps(load_ablations([]), settings(tmp_path), seeds=3)
    run_steps(graph, settings(tmp_path), jobs=2, console=Console(file=io.StringIO()))
    assert sorted(map(str, ran)) == sorted({str(step) for step in graph} | {f"data-{seed}" for seed in range(3)})
    assert all(ran.index(before) < ran.index(step) for step, needed in graph.items() for before in needed)


def test_a_step_that_fails_stops_those_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(step: Step, *_: object, **__: object) -> None:
        ran.append(step.name)
        if step.name == "align":
            raise subprocess.CalledProcessError(1, ["python", "-m", "training"])

    monkeypatch.setattr(ablations, "run_step", run)
    result = CliRunner().invoke(app, [str(tmp_path), "--only", "balance", "--jobs", "1"])
    assert result.exit_code == 1 and "failed: python -m training" in result.output.replace("\n", " ")
    assert "mixed" not in ran and not (tmp_path / "ablations.json").exists()


def results(counts: list[list[list[int]]] | None) -> dict[str, Any]:
    """Of a model with tokens sent to each expert, (M, L, E)."""
    modalities = {
        str(index): {"counts": layers, "mean_experts_used": 2.0} for index, layers in enumerate(counts or [])
    }
    routing = None if counts is None else {"modalities": modalities, "num_experts": 2}
    return {"model": {"parameters": 9, "active_parameters": 5}, "routing": routing}


def test_facts_say_how_many_experts_were_asked_and_how_evenly() -> None:
    facts = describe([results([[[6, 2]], [[0, 2]]])], asked=[20.0])
    assert (facts.calls, facts.experts_used, facts.least_load) == (0.5, 2.0, 0.8)
    assert describe([results(None)], asked=[20.0]).calls is None
    assert describe([results([[[1, 1]]])], asked=[None]).calls is None


def test_the_results_of_a_page_are_replaced_and_the_rest_is_kept(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\ntext\n")
    put_section(page, "Results", "first")
    assert page.read_text() == "# Title\n\ntext\n\n## Results\n\nfirst\n"
    page.write_text(page.read_text() + "\n## More\n\nend\n")
    put_section(page, "Results", "### A\n\nsecond")
    assert page.read_text() == "# Title\n\ntext\n\n## Results\n\n### A\n\nsecond\n\n## More\n\nend\n"


@pytest.mark.slow
def test_from_nothing_to_the_tables_and_again_without_training(tmp_path: Path) -> None:
    options = ["--seeds", "2", "--scale", "0.005", "--limit", "12", "--markdown", str(tmp_path / "page.md")]
    command = [sys.executable, "-m", "benchmarks.ablations", str(tmp_path / "out"), *options]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    weights = tmp_path / "out" / "seed-1" / "eight" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert again.stdout.count("done before") == 2 * (1 + 13 + 6) and weights.stat().st_mtime_ns == written
    report = json.loads((tmp_path / "out" / "ablations.json").read_text())["ablations"]
    assert {row["variant"] for row in report["number"]["comparisons"]} == {"1 expert", "8 experts"}
    facts = report["number"]["facts"]
    active = [facts[name]["active_parameters"] for name in ("1 expert", "4 experts", "8 experts")]
    assert max(active) / min(active) < 1.01
    assert report["router"]["facts"]["top-k"]["calls"] == 1.0
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("## Results\n\n### With and without balance loss") and page.count("| variant |") == 4
