"""Growth of the showcase: costs of trainings, and tables and picture over rows, time and experts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer import Typer
from typer.testing import CliRunner

from benchmarks.showcase import costs, growth
from benchmarks.showcase.costs import Cost, active_parameters, read_cost
from benchmarks.showcase.growth import DENSE, EIGHT, MIXTURE, WIDE, Point, loss_at
from benchmarks.showcase.losses import ALL
from benchmarks.showcase.start import measure_sizes
from training.config.recipe import load_recipe
from unimoe import UniMoEConfig, UniMoEForConditionalGeneration

app = Typer()
app.command()(growth.main)


def test_a_cost_is_that_of_a_stage_and_of_those_that_it_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {
        "narrow": {"start": "start", "output": str(tmp_path / "narrow")},
        "later": {"start": str(tmp_path / "narrow"), "output": str(tmp_path / "later")},
    }
    common = {"train": {"parts": ["mlp"]}, "data": {"mixture": ["a.jsonl"]}, "trainer": {"max_steps": 2}}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"stages": {name: {**common, **stage} for name, stage in stages.items()}}))
    for name, tokens in (("narrow", [100, 200]), ("later", [50])):
        (tmp_path / name).mkdir()
        logs = [{"step": n, "tokens": t, "tokens_per_second": 10.0, "rows": n * 8} for n, t in enumerate(tokens, 1)]
        text = "".join(json.dumps(log) + "\n" for log in [*logs, {"step": 9, "eval_loss": 1.0}])
        (tmp_path / name / "metrics.jsonl").write_text(text)
    monkeypatch.setattr(costs, "active_parameters", lambda folder: 7 if folder.name == "later" else 3)
    recipe = load_recipe(file)
    assert read_cost(recipe, "narrow") == Cost(16, 300, 30.0, 6 * 3 * 300)
    assert read_cost(recipe, "later") == Cost(24, 350, 35.0, 6 * 3 * 300 + 6 * 7 * 50)


def test_active_parameters_are_those_of_the_model(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = UniMoEForConditionalGeneration(UniMoEConfig(text_config={**text, "vocab_size": 20, "num_experts": 4}))
    model.config.save_pretrained(tmp_path)
    assert active_parameters(tmp_path) == measure_sizes(model).active


def test_a_loss_at_a_time_lies_on_the_line_over_its_logarithm() -> None:
    points = [Point((loss,), Cost(0, 0, seconds, 0)) for loss, seconds in ((4.0, 10.0), (2.0, 1000.0))]
    assert loss_at(points, 100.0) == pytest.approx(3.0)
    assert loss_at(points, 2000.0) is None and loss_at(points, 5.0) is None


def write_folder(folder: Path, scale: float, losses: dict[str, dict[str, float]]) -> None:
    """Write the losses.json of two seeds, the second 0.1 higher."""
    folder.mkdir()
    report: dict[str, Any] = {"settings": {"seeds": 2, "scale": scale}}
    report["losses"] = {
        name: {system: [{ALL: loss}, {ALL: loss + 0.1}] for system, loss in systems.items()}
        for name, systems in losses.items()
    }
    cost = {DENSE: 1.0, MIXTURE: 1.5}
    report["costs"] = {
        name: {system: [[scale * 1000, 0, scale * cost.get(system, 2.0), scale * 1e12]] * 2 for system in systems}
        for name, systems in losses.items()
    }
    (folder / "losses.json").write_text(json.dumps(report))


def test_tables_and_the_picture_are_written(tmp_path: Path) -> None:
    write_folder(tmp_path / "whole", 1.0, {"main": {DENSE: 3.0, MIXTURE: 2.5, WIDE: 2.0}})
    experts = {DENSE: 4.0, "4 experts": 3.7, EIGHT: 3.6, "16 experts": 3.5}
    write_folder(tmp_path / "half", 0.5, {"main": {DENSE: 4.0, MIXTURE: 3.6, WIDE: 3.2}, "experts": experts})
    page, picture = tmp_path / "page.md", tmp_path / "growth.png"
    page.write_text("# Page\n\n## Growth\n\nnot yet\n")
    copy = (tmp_path / "half" / "losses.json").rename(tmp_path / "copy.json")
    asked = [str(tmp_path / "whole"), str(copy), "--markdown", str(page), "--picture", str(picture)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert "| 500 | 4.050 | 3.650 | 3.250 | -0.400 (-0.400 to -0.400) | 50% |" in text
    assert text.index("| 500 |") < text.index("| 1,000 |") and "not yet" not in text
    assert f"| {MIXTURE} | 1.00e+12 | 2 | 1.50 | 2.550 | 3.193 |" in text
    assert f"| {WIDE} | 1.00e+12 | 2 | 2.00 | 2.050 | 3.250 |" in text
    assert "| 16 experts | 3.550 | -0.500 (-0.500 to -0.500) | -0.100 (-0.100 to -0.100) | 2.00 |" in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    missing = CliRunner().invoke(app, [str(tmp_path)])
    assert missing.exit_code == 2
