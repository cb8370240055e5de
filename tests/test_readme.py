"""The README's blocks work: Python as written, commands as written, with local folders in the place of Hub ids."""

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest
from documents import ROOT, blocks, commands, localised, unimoe_commands
from surgery.rows import write_rows
from test_build import parts  # noqa: F401  # a fixture: saved language model and towers
from typer.testing import CliRunner

from training.__main__ import app as training_app
from training.config.recipe import load_recipe
from training.config.stage import StageConfig
from unimoe.cli import app
from unimoe.files.settings import read_yaml, validate

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
OPERATIONS = ("prune", "recalibrate", "audit")
NEEDS = ("", "hub", "quickstart", "real-parts")


def module_arguments(module: str) -> list[list[str]]:
    return [words[3:] for words in commands(README) if words[:3] == [".venv/bin/python", "-m", module]]


def test_the_two_commands_come_first() -> None:
    assert [words[1] for words in commands(README) if words[0] == "make"] == ["quickstart", "test", "real-parts"]


def test_python_blocks_run_as_written(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = [block.text for block in blocks(README) if block.language == "python"]
    assert found
    for text in found:
        exec(compile(text.replace("runs/quickstart/model", str(model_folder)), "README.md", "exec"), {})


def test_unimoe_commands_run_as_written(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = unimoe_commands(README)
    places = {"runs/quickstart/data/calibration.jsonl": write_rows(tmp_path), "runs/quickstart/model": model_folder}
    places |= {"models/mixture": model_folder, "runs": tmp_path}
    for arguments in found:
        if arguments[0] != "build":
            local = [re.sub("|".join(places), lambda name: str(places[name[0]]), w) for w in arguments]
            result = CliRunner().invoke(app, local)
            assert result.exit_code == 0, result.output
    assert [arguments[0] for arguments in found] == [
        "info",
        "chat",
        "env",
        "build",
        "build",
        "verify",
        "presets",
        *OPERATIONS,
    ]


def test_the_build_command_runs_with_local_folders(parts, tmp_path: Path) -> None:  # noqa: F811
    builds = [arguments for arguments in unimoe_commands(README) if arguments[0] == "build"]
    assert len(builds) == 2
    for number, arguments in enumerate(builds):
        out = tmp_path / str(number)
        result = CliRunner().invoke(app, localised(arguments, parts[0], out))
        assert result.exit_code == 0 and (out / "model.safetensors").is_file(), result.output
        assert (out / "certificate.json").is_file() == ("--experts" in arguments)


def test_training_and_evaluation_commands_name_files_and_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = {
        command.name or getattr(command.callback, "__name__", "") for command in training_app.registered_commands
    }
    for arguments in module_arguments("training"):
        if arguments[0] in commands:  # its file is made by another command
            continue
        load_recipe(arguments[0], [argument for argument in arguments[1:] if "=" in argument])
    for arguments in module_arguments("evaluation"):
        assert Path(arguments[arguments.index("--config") + 1]).is_file()


def test_the_stage_shown_is_a_valid_stage(tmp_path: Path) -> None:
    block = next(block.text for block in blocks(README) if block.language == "yaml")
    (tmp_path / "stage.yaml").write_text(block, encoding="utf-8")
    values = {**read_yaml(tmp_path / "stage.yaml"), "output": str(tmp_path)}
    assert validate(StageConfig, values, source="README.md").train.parts == ["connectors", "router"]


def test_every_block_needs_what_is_tested_here() -> None:
    assert {block.needs for block in blocks(README)} == set(NEEDS)


def test_the_tree_is_true() -> None:
    tree = TEXT.split("## Where things are")[1].split("```")[1].strip()
    folders_of = dict(line.split(maxsplit=1) for line in tree.splitlines())
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    folders = {f"{name.split('/')[0]}/" for name in tracked.splitlines() if "/" in name and name[0] != "."}
    assert set(folders_of) == folders or not folders  # an unpacked archive has no list of files
    for folder, text in folders_of.items():
        for name in re.findall(r"\w+/|\w+\.(?:py|md)", text):
            assert (ROOT / folder / name).exists(), f"{folder}{name}"


def row_of_table(name: str) -> list[str]:
    """Cells of a row of the quickstart's table, without its name."""
    line = next(line for line in TEXT.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip().strip("*") for cell in line.strip("|").split("|")[1:]]


def test_the_table_is_that_of_the_committed_results_of_this_recipe() -> None:
    recipe = json.dumps(read_yaml(ROOT / "configs" / "quickstart" / "quickstart.yaml"), sort_keys=True)
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    assert f"recipe `{digest}`" in TEXT, "the recipe has changed: run make quickstart BASELINE=1, and renew the table"
    results = json.loads((ROOT / "docs" / "quickstart_results.json").read_text(encoding="utf-8"))
    tasks = results["tasks"].values()
    assert results["versions"]["processor"].split(" (")[0] in TEXT
    shown = {
        "score (exact match)": [f"{task['value']:.3f}" for task in tasks],
        "95 % interval": [f"{task['low']:.3f} - {task['high']:.3f}" for task in tasks],
        "rows": [f"{task['n']:,}" for task in tasks],
        "floor: most frequent answer": [f"{task['floors']['majority']:.3f}" for task in tasks],
        "floor: question alone": [f"{task['floors']['question_only']:.3f}" for task in tasks],
        "media shuffled among the rows": [f"{task['shuffled']['value']:.3f}" for task in tasks],
        "dense baseline": [f"{task['baseline']['value']:.3f}" for task in tasks],
    }
    assert {name: row_of_table(name) for name in shown} == shown
