"""A recipe names its pretrained parts once, by Hub id or folder, and composes its first model of them."""

import inspect
from pathlib import Path

import pytest
import torch
import yaml
from tiny_parts import save_parts
from transformers import AutoModelForMultimodalLM

from training.config.build import BuildConfig
from training.config.recipe import load_recipe
from training.config.stage import StageConfig
from training.stage.run import run_stage
from training.trainer.start import load_start
from unimoe.build import build_model, describe_model
from unimoe.errors import ConfigError

ROOT = Path(__file__).parents[2]
STAGE = {"train": {"parts": ["connectors"]}, "data": {"mixture": ["${data}/rows.jsonl"]}}


def write(folder: Path, recipe: dict) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def recipe(**changes) -> dict:
    start = {"build": {"language": "${language}", "vision": "hub/vision"}}
    return {
        "output": "runs/r",
        "variables": {"language": "hub/language", "data": "${output}/data"},
        "stages": {"align": {"start": start, **STAGE}},
        **changes,
    }


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    save_parts(root)
    return root


def test_variables_stand_for_parts_and_may_name_the_output(tmp_path):
    stage = load_recipe(write(tmp_path, recipe()), ["variables.language=models/local", "output=here"]).stages["align"]
    assert stage.start.build.language == "models/local" and stage.start.build.vision == "hub/vision"
    assert stage.data.mixture[0].path == "here/data/rows.jsonl"
    assert stage.start.model_dump()["build"]["language"] == "models/local"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variables": {"data": "d", "langauge": "x"}}, r"no such variable\. Did you mean 'langauge'"),
        ({"variables": {"output": "x"}}, r"variables\.output: set the recipe's `output`"),
        (
            {"variables": {"language": "l", "data": "d", "langage": "x"}},
            r"langage: nothing .* uses it\. Did you mean 'language'",
        ),
        ({"variables": ["x"]}, "variables: expected a mapping"),
        ({"output": None}, "needs the recipe to have an `output`"),
    ],
)
def test_a_variable_that_cannot_be_filled_in_is_named(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path, recipe(**changes)))


def test_a_start_is_one_thing_and_has_a_tower(tmp_path):
    stage = recipe()["stages"]["align"]
    both = {**stage, "start": {**stage["start"], "path": "x"}}
    with pytest.raises(ConfigError, match="give one of"):
        load_recipe(write(tmp_path, recipe(stages={"align": both})))
    blind = {**stage, "start": {"build": {"language": "${language}"}}}
    with pytest.raises(ConfigError, match="give vision, speech or audio"):
        load_recipe(write(tmp_path, recipe(stages={"align": blind})))


def test_a_stage_that_composes_its_start_is_the_one_that_starts_from_the_composed_model(parts, workspace, make_stage):
    """The first stage needs no command before it."""
    described = {name: str(parts / name) for name in ("language", "vision", "speech", "audio")}
    connectors = {"image": {"type": "pooling", "stride": 2}}
    stage = make_stage(start={"path": None, "build": {**described, "connectors": connectors}}, seed=3)
    torch.manual_seed(0)  # of the embeddings of the placeholders
    model, processor, certificate = load_start(stage)
    torch.manual_seed(0)
    expected, its_processor = build_model(**described, connectors=connectors, dtype="float32", seed=3)
    assert certificate is None and processor.layout == its_processor.layout
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
    output = run_stage(stage)
    assert str(parts / "language") in (output / "README.md").read_text()
    trained = AutoModelForMultimodalLM.from_pretrained(output)
    name = "model.connectors.image.linear_1.weight"
    assert (trained.state_dict()[name] != expected.state_dict()[name]).any()


def test_a_part_that_is_not_there_is_named(tmp_path, make_stage):
    stage = make_stage(start={"path": None, "build": {"language": str(tmp_path / "nothing"), "vision": "x"}})
    assert isinstance(stage, StageConfig)
    with pytest.raises(ConfigError, match=r"start of the stage cannot be made: language .*nothing"):
        load_start(stage)


def test_a_recipe_names_the_parts_of_a_model_as_the_functions_that_compose_it_do():
    build, describe = (list(inspect.signature(function).parameters) for function in (build_model, describe_model))
    assert build == [*describe, "dtype", "seed"] and list(BuildConfig.model_fields) == [*describe, "dtype"]
