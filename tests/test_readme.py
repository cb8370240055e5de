"""The README's blocks work: Python as written, commands as written, with local folders in the place of Hub ids."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from test_build import parts  # noqa: F401  # a fixture: saved language model and towers
from typer.testing import CliRunner

from training.config import StageConfig
from training.recipe import load_recipe
from unimoe.cli import app
from unimoe.settings import read_yaml, validate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:<!-- needs: (\w+) -->\n)?```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for _, language, text in BLOCKS if language == "bash" for line in text.strip().splitlines()]


KINDS = ("make ", ".venv/bin/unimoe ", ".venv/bin/python -m training ", ".venv/bin/python -m evaluation ")


def commands(start: str) -> list[list[str]]:
    return [shlex.split(command)[2:] for command in COMMANDS if command.startswith(start)]


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    wanted = [shlex.split(command)[1] for command in COMMANDS if command.startswith("make ")]
    assert wanted == ["quickstart", "test", "real-parts"] and set(wanted) <= set(targets)


def test_python_blocks_run_as_written(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = [text for _, language, text in BLOCKS if language == "python"]
    assert blocks
    for block in blocks:
        exec(compile(block.replace("runs/quickstart/model", str(model_folder)), "README.md", "exec"), {})


def test_unimoe_commands_run_as_written(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = [shlex.split(command)[1:] for command in COMMANDS if command.startswith(".venv/bin/unimoe ")]
    for arguments in found:
        if arguments[0] != "build":
            local = [re.sub("runs/quickstart/model|models/mixture", str(model_folder), word) for word in arguments]
            result = CliRunner().invoke(app, local)
            assert result.exit_code == 0, result.output
    assert [arguments[0] for arguments in found] == ["info", "chat", "env", "build", "build", "verify", "presets"]


def test_the_build_command_runs_with_local_folders(parts, tmp_path: Path) -> None:  # noqa: F811
    root, _ = parts
    builds = [shlex.split(c)[1:] for c in COMMANDS if c.startswith(".venv/bin/unimoe build")]
    assert len(builds) == 2
    for number, arguments in enumerate(builds):
        for option in {"--language", "--vision", "--speech", "--audio"} & set(arguments):
            arguments[arguments.index(option) + 1] = str(root / option.removeprefix("--"))
        out = tmp_path / str(number)
        arguments[arguments.index("--out") + 1] = str(out)
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0 and (out / "model.safetensors").is_file(), result.output
        assert (out / "certificate.json").is_file() == ("--experts" in arguments)


def test_training_and_evaluation_commands_name_files_and_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for arguments in commands(".venv/bin/python -m training"):
        overrides = [argument for argument in arguments[2:] if "=" in argument]
        load_recipe(arguments[1], overrides)
    for arguments in commands(".venv/bin/python -m evaluation"):
        assert Path(arguments[arguments.index("--config") + 1]).is_file()


def test_the_stage_shown_is_a_valid_stage(tmp_path: Path) -> None:
    block = next(text for _, language, text in BLOCKS if language == "yaml")
    (tmp_path / "stage.yaml").write_text(block, encoding="utf-8")
    values = {**read_yaml(tmp_path / "stage.yaml"), "output": str(tmp_path)}
    assert validate(StageConfig, values, source="README.md").train.parts == ["connectors", "router"]


def test_every_command_is_of_a_kind_that_is_tested_here() -> None:
    for need, _, text in BLOCKS:
        assert need in ("", "hub", "quickstart", "real-parts"), text
    for command in COMMANDS:
        assert command.startswith(KINDS), command


def test_the_tree_is_true() -> None:
    tree = README.split("## Where things are")[1].split("```")[1].strip()
    rooms = dict(line.split(maxsplit=1) for line in tree.splitlines())
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    folders = {f"{name.split('/')[0]}/" for name in tracked.splitlines() if "/" in name and name[0] != "."}
    assert set(rooms) == folders or not folders  # an unpacked archive has no list of files
    for room, text in rooms.items():
        for name in re.findall(r"\w+/|\w+\.(?:py|md)", text):
            assert (ROOT / room / name).exists(), f"{room}{name}"


def test_the_files_that_the_readme_links_exist() -> None:
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
