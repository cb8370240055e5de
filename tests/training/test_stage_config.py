"""Stages and recipes are data: every mistake is refused with the file, the key and the nearest known name."""

import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from training.__main__ import app
from training.config.recipe import load_recipe, merge, select_stages
from training.config.stage import StageConfig
from unimoe.errors import ConfigError
from unimoe.files.settings import apply_override

STAGE = {
    "start": "models/start",
    "train": {"parts": ["connectors"]},
    "data": {"mixture": [{"path": "rows.jsonl"}]},
    "trainer": {"max_steps": 10},
    "output": "runs/stage",
}
CONFIGS = [
    path
    for folder in ("quickstart", "stages")
    for path in sorted((Path(__file__).parents[2] / "configs" / folder).glob("*.yaml"))
]


def write(folder: Path, values: object) -> Path:
    path = folder / "file.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def problem(folder: Path, values: object, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(folder, values), overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"mixtur": []}}, "file.yaml: data.mixtur: unknown key. Did you mean 'mixture'?"),
        ({"trian": {}}, "file.yaml: trian: unknown key. Did you mean 'train'?"),
        (
            {"trainer": {"learning_rat": 1}},
            "file.yaml: trainer.learning_rat: unknown key. Did you mean 'learning_rate'?",
        ),
        ({"train": {"lora": {"parts": ["experts"], "rank": 4}}}, "file.yaml: train.lora.rank: unknown key."),
        (
            {"data": {"augment": {"image": {"flipp": 1}}}},
            "data.augment.image.flipp: unknown key. Did you mean 'flip'?",
        ),
        ({"trainer": {"output_dir": "x"}}, "trainer.output_dir: leave it out. Set the stage's `output`."),
        ({"trainer": {"lr": 1}}, "file.yaml: trainer.lr: unknown key. See transformers.TrainingArguments."),
        ({"train": {"parts": []}}, "nothing would train"),
        ({"train": {"lora": {"parts": ["connectors"]}}}, "connectors: train a part either whole or by lora"),
        ({"train": {"schedule": {"begin": 0.5, "end": 0.5}}}, "train.schedule: begin is 0.5, end 0.5: begin must"),
        ({"seed": "many"}, "file.yaml: seed: Input should be a valid integer"),
        ({"output": None}, "file.yaml: output: "),
        (
            {"start": {"assemble": {"base": "a", "experts": {}, "routing": "bias"}}},
            "start.assemble.routing: unknown key.",
        ),
        (
            {"data": {"mixture": [{"path": "a", "wieght": 2}]}},
            "data.mixture.0.wieght: unknown key. Did you mean 'weight'?",
        ),
    ],
)
def test_a_mistake_is_refused_with_file_key_and_cure(tmp_path, change, message):
    assert message in problem(tmp_path, merge(STAGE, change))


def test_a_missing_key_and_broken_yaml_are_named(tmp_path):
    assert problem(tmp_path, {k: v for k, v in STAGE.items() if k != "data"}).startswith(
        "file.yaml: data: Field required"
    )
    assert "not valid YAML" in problem(tmp_path, "start: [")
    assert "the key 'seed' is given twice" in problem(tmp_path, "seed: 1\nseed: 2\n")
    assert "expected a mapping" in problem(tmp_path, "- a list")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_a_recipe_merges_defaults_scales_steps_and_fills_in_its_output(tmp_path):
    stage = {"train": {"parts": ["mlp"]}, "data": {"mixture": ["${output}/rows.jsonl"]}}
    recipe = load_recipe(
        write(
            tmp_path,
            {
                "output": "runs/r",
                "seed": 7,
                "defaults": {"trainer": {"max_steps": 100, "logging_steps": 5}, "data": {"max_length": 9}},
                "stages": {
                    "one": {"start": "${output}/start", **stage},
                    "two": {
                        "start": "${output}/one",
                        "output": "${output}/model",
                        "trainer": {"max_steps": 3},
                        **stage,
                    },
                },
            },
        ),
        ["scale=0.1", "output=elsewhere"],
    )
    one, two = recipe.stages["one"], recipe.stages["two"]
    assert (one.output, two.output, one.start.path, two.start.path) == (
        "elsewhere/one",
        "elsewhere/model",
        "elsewhere/start",
        "elsewhere/one",
    )
    assert (one.trainer, two.trainer) == ({"max_steps": 10, "logging_steps": 5}, {"max_steps": 1, "logging_steps": 5})
    assert one.seed == two.seed == 7 and one.data.max_length == 9
    assert one.data.mixture[0].path == "elsewhere/rows.jsonl"


def test_scale_without_steps_scales_epochs(tmp_path):
    recipe = load_recipe(
        write(tmp_path, {"scale": 0.5, "stages": {"one": merge(STAGE, {"trainer": {"max_steps": -1}})}})
    )
    assert recipe.stages["one"].trainer["num_train_epochs"] == 1.5


def in_a_row(schedule: object, **steps: int) -> dict:
    stages = {name: merge(STAGE, {"trainer": {"max_steps": number}}) for name, number in steps.items()}
    return {"schedule": schedule, "stages": stages}


def test_stages_share_a_schedule_by_their_steps(tmp_path):
    values = in_a_row(["align", ["image", "speech"], "mixed"], align=30, image=5, speech=15, mixed=50, dense=100)
    trains = {name: stage.train for name, stage in load_recipe(write(tmp_path, values)).stages.items()}
    spans = {name: train.schedule and (train.schedule.begin, train.schedule.end) for name, train in trains.items()}
    assert spans == {"align": (0, 0.3), "image": (0.3, 0.5), "speech": (0.3, 0.5), "mixed": (0.5, 1), "dense": None}
    halved = load_recipe(write(tmp_path, {**values, "scale": 0.5})).stages
    assert halved["mixed"].train.schedule.end == 1 and halved["mixed"].trainer["max_steps"] == 25


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (in_a_row(["one", "tow"], one=1, two=1), "schedule: there is no stage 'tow'. Did you mean 'two'?"),
        (in_a_row(["one", ["one"]], one=1), "schedule: stage 'one' is named 2 times. Name it once."),
        (in_a_row(["one"], one=-1), "schedule: stage 'one' says no number of steps. Set stages.one.trainer.max_"),
        (in_a_row("one", one=1), "schedule: expected a list of stages, got 'one'."),
        (in_a_row([{"one": 1}], one=1), "schedule: there is no stage \"{'one': 1}\"."),
    ],
)
def test_a_schedule_that_does_not_fit_the_stages_is_refused(tmp_path, values, message):
    assert message in problem(tmp_path, values)


def test_overrides_are_yaml_reach_into_lists_and_are_checked(tmp_path):
    stage = load_recipe(
        write(tmp_path, STAGE), ["trainer.learning_rate=4e-5", "data.mixture.0.weight=2", "train.parts=[router, mlp]"]
    ).stages["file"]
    assert stage.trainer["learning_rate"] == 4e-5
    assert stage.data.mixture[0].weight == 2 and stage.train.parts == ["router", "mlp"]
    assert "Did you mean 'max_length'" in problem(tmp_path, STAGE, "data.maxlength=3")
    for override in ("data", "data.mixture.5.weight=1", "output.x=1"):
        with pytest.raises(ConfigError):
            apply_override(merge(STAGE, {}), override)


def test_a_resolved_stage_is_a_stage_again(tmp_path):
    for start in ("models/start", {"assemble": {"base": "a", "experts": {"image": "b"}, "router_bias": 2.0}}):
        stage = StageConfig.model_validate(
            merge(STAGE, {"start": start}) if isinstance(start, str) else {**STAGE, "start": start}
        )
        again = load_recipe(write(tmp_path, stage.model_dump())).stages["file"]
        assert again == stage


def test_stages_are_selected_by_name(tmp_path):
    recipe = load_recipe(write(tmp_path, {"stages": dict.fromkeys(("one", "two", "three"), STAGE)}))
    assert list(select_stages(recipe, only=[], start="two")) == ["two", "three"]
    assert list(select_stages(recipe, only=["three", "one"], start=None)) == ["one", "three"]
    with pytest.raises(ConfigError, match=r"no stage 'thre'\. Did you mean 'three'"):
        select_stages(recipe, only=["thre"], start=None)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_stage_file_in_configs_loads_and_starts_with_its_command(path):
    recipe = load_recipe(path)
    assert recipe.stages
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# python -m training") and f"configs/{path.parent.name}/{path.name}" in first


def test_the_quickstart_baseline_sees_as_many_samples_as_all_other_stages():
    recipe = load_recipe(next(path for path in CONFIGS if path.name == "quickstart.yaml"))
    samples = {
        name: stage.trainer["max_steps"] * stage.trainer["per_device_train_batch_size"]
        for name, stage in recipe.stages.items()
    }
    assert samples.pop("dense") == sum(samples.values())


def test_the_command_line_answers_mistakes_with_one_message_and_exit_code_2(tmp_path):
    result = CliRunner().invoke(app, [str(write(tmp_path, STAGE)), "data.mixtur=[]"])
    assert result.exit_code == 2
    assert "data.mixtur: unknown key" in result.output and "Traceback" not in result.output


def large_recipes():
    text = "x" * 100_000
    stages = {f"s{number}": {} for number in range(2_000)}
    yield {"variables": {"v": text}, "stages": {"one": {"start": "${v}" * 1_000}}}, "limit yaml_bytes"
    yield {"defaults": {"trainer": {f"k{n}": n for n in range(2_000)}}, "stages": stages}, "limit yaml_keys"
    yield {"stages": {"one": merge(STAGE, {"train": {"layers": ["0-99999999999"]}})}}, "is no layer below 100,000"
    validation = [{"path": f"v{number}.jsonl"} for number in range(2_000)]
    mixture = [{"path": f"m{number}.jsonl"} for number in range(2_000)]
    yield (
        {"stages": {"one": merge(STAGE, {"data": {"mixture": mixture, "validation": validation}, "seed": "x"})}},
        "seed",
    )
    yield {"stages": {"one": merge(STAGE, {"data": {"mixture": [1] * 4_000}})}}, "more problems"
    yield merge(STAGE, {"x" * 10_000: 1}), "unknown key"


@pytest.mark.parametrize(("values", "message"), list(large_recipes()))
def test_small_files_that_would_become_large_are_refused_at_once(tmp_path, values, message):
    path = write(tmp_path, yaml.dump(values, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    began = time.monotonic()
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(path)
    assert time.monotonic() - began < 5 and len(str(caught.value)) < 5_000


def test_a_bomb_ends_the_command_line_with_one_message(tmp_path):
    bomb = "a: &a [x, x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1 or ''}, *a{n - 1 or ''}]" for n in range(1, 40))
    result = CliRunner().invoke(app, [str(write(tmp_path, bomb))])
    assert result.exit_code == 2 and "limit yaml_keys" in result.output and "Traceback" not in result.output
