"""The showcase: systems have the parameters that are claimed, begin alike and see the same rows."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ResNetConfig, ResNetModel, WhisperConfig, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from typer import Typer
from typer.testing import CliRunner

from benchmarks.ablations import Settings, Step, load_ablations
from benchmarks.showcase import __main__ as driver
from benchmarks.showcase import losses as losses_module
from benchmarks.showcase.__main__ import COMPARISONS, CONFIGS, main, plan_trainings
from benchmarks.showcase.costs import Cost
from benchmarks.showcase.losses import ALL, compare, read_losses, subtract, tabulate, to_markdown
from benchmarks.showcase.start import (
    ShowcaseConfig,
    Sizes,
    build_starts,
    cut_whisper,
    measure_sizes,
    system_config,
)
from training.config.recipe import load_recipe
from training.quickstart.build import train_tokenizer
from unimoe import UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.errors import ConfigError
from unimoe.surgery.assemble import assembled_config

RECIPE = CONFIGS / "recipe.yaml"
MIXTURES = ("mixture", "bias", "semi_isolated", "shared_expert", "upcycled")
app = Typer()
app.command()(main)

# Towers as wide as the real ones, of which nothing else counts here.
_WHISPER = {"model_type": "whisper", "d_model": 384, "encoder_layers": 1, "encoder_attention_heads": 6}
_SPEECH = {"tower_config": {**_WHISPER, "max_source_positions": 100}}
ENCODERS: dict[str, dict[str, Any]] = {
    "image": {"tower_config": {"model_type": "resnet", "hidden_sizes": [8, 1280], "depths": [1, 1]}, "num_tokens": 16},
    "audio": _SPEECH,
    "speech": _SPEECH,
}


@pytest.fixture(scope="module")
def models() -> dict[str, UniMoEForConditionalGeneration]:
    """The systems of the recipe, without memory."""
    config = ShowcaseConfig.model_validate(load_recipe(RECIPE).model)
    drawn = random.Random(0)
    words = ("".join(drawn.choices("abcdefghijklmnop", k=7)) for _ in range(5000))
    tokenizer = train_tokenizer(words, vocab_size=config.vocab_size)
    with torch.device("meta"):
        configs = {system: system_config(config, system, tokenizer, ENCODERS) for system in config.systems}
        for name in ("upcycled", "lora"):
            made = load_recipe(RECIPE).stages[name].start.assemble
            configs[name] = assembled_config(configs["narrow"], {"text": 1}, **made.arguments())
        return {name: UniMoEForConditionalGeneration(values) for name, values in configs.items()}


@pytest.fixture(scope="module")
def sizes(models: dict[str, UniMoEForConditionalGeneration]) -> dict[str, Sizes]:
    return {system: measure_sizes(model) for system, model in models.items()}


@pytest.mark.parametrize("system", [*MIXTURES, "lora"])
def test_mixtures_have_as_many_active_parameters_as_the_dense_model(sizes: dict[str, Sizes], system: str) -> None:
    assert sizes[system].active == pytest.approx(sizes["dense"].active, rel=0.01)
    assert sizes[system].feed_forward >= sizes[system].active / 2


@pytest.mark.parametrize("experts", [4, 16, 32])
def test_other_numbers_of_experts_change_active_parameters_by_the_router_alone(
    sizes: dict[str, Sizes], experts: int
) -> None:
    text = load_recipe(RECIPE).model["text"]
    of_target = text["hidden_size"] * text["num_hidden_layers"]
    assert sizes[f"mixture_{experts}"].active - sizes["mixture"].active == (experts - 8) * of_target


@pytest.mark.parametrize("system", MIXTURES)
def test_mixtures_have_as_many_parameters_in_all_as_the_wide_dense_model(sizes: dict[str, Sizes], system: str) -> None:
    assert sizes[system].total == pytest.approx(sizes["dense_total"].total, rel=0.01)


def test_each_stage_trains_everything_but_the_towers(models: dict[str, UniMoEForConditionalGeneration]) -> None:
    stages = load_recipe(RECIPE).stages
    for name, model in models.items():
        parts = model.parts()
        trained = {parameter for part in stages[name].train.parts for parameter in parts[part]}
        frozen = set(parts["expert_base"]) if name == "lora" else set()
        assert trained | frozen == {key for key, _ in model.named_parameters() if ".encoders." not in key}, name


def test_every_system_sees_the_same_rows_in_as_many_steps_at_the_same_rates() -> None:
    stages = {name: stage.model_dump() for name, stage in load_recipe(RECIPE).stages.items()}
    apart = {"start", "train", "output"}
    first, *others = ({key: stages[name][key] for key in stages[name].keys() - apart} for name in stages)
    for other in others:
        steps = other["trainer"].pop("max_steps"), first["trainer"]["max_steps"]
        assert {**other, "trainer": {**other["trainer"], "max_steps": steps[1]}} == first
    loaded = load_recipe(RECIPE).stages
    for name in ("upcycled", "lora"):
        narrow, later = loaded["narrow"], loaded[name]
        assert narrow.trainer["max_steps"] + later.trainer["max_steps"] == loaded["mixture"].trainer["max_steps"]
        assert narrow.train.schedule.end == later.train.schedule.begin == 0.3


def test_comparisons_name_the_stages_and_their_own_command() -> None:
    found = load_ablations([str(CONFIGS / f"{name}.yaml") for name in COMPARISONS])
    compared = {stage for ablation in found.values() for stage in ablation.variants.values()}
    assert compared == set(load_recipe(RECIPE).stages) - {"narrow"}
    for name in COMPARISONS:
        assert f"--only {name}" in (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]


def test_what_is_upcycled_waits_for_its_source_and_nothing_is_generated(tmp_path: Path) -> None:
    found = load_ablations([str(CONFIGS / "changes.yaml")])
    settings = Settings(tmp_path, 1.0, None, found["changes"].recipe, found["changes"].start)
    graph = plan_trainings(found, settings, seeds=2)
    assert graph[Step("upcycled", 1)] == {Step("narrow", 1)} and graph[Step("narrow", 1)] == {Step("data", 1)}
    assert not [step for step in graph if step.name.startswith("measure")] and Step("dense", 0) not in graph
    command = Step("data", 1).command(settings)
    assert command[:2] == ["-m", "benchmarks.showcase.start"] and command[-1] == "seed=1"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A `model` section with small towers and systems, its data beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    image = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(image).save_pretrained(folder / "models" / "image")
    whisper = WhisperConfig(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, vocab_size=60)
    whisper.update({"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "pad_token_id": 0})
    WhisperModel(whisper).save_pretrained(folder / "models" / "speech")
    message = {"messages": [{"role": "user", "content": "define a"}, {"role": "assistant", "content": "a letter"}]}
    (folder / "glosses_train.jsonl").write_text(json.dumps(message))
    values = load_recipe(RECIPE).model
    small = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    systems = {"mixture": {"num_experts": 4}, "dense": {"intermediate_size": 16}, "other": {"num_experts": 4}}
    return {
        **values,
        "data": str(folder),
        "image": str(folder / "models" / "image"),
        "speech": str(folder / "models" / "speech"),
        "vocab_size": 300,
        "image_size": 32,
        "text": {**values["text"], **small},
        "systems": systems,
    }


def test_systems_of_a_seed_begin_alike_wherever_their_shapes_agree(tiny: dict[str, Any], tmp_path: Path) -> None:
    folders = {folder.name: folder for folder, _ in build_starts(tiny, output=tmp_path / "0", seed=0)}
    loaded = {name: UniMoEForConditionalGeneration.from_pretrained(path) for name, path in folders.items()}
    mixture, dense, other = (loaded[f"start-{name}"].state_dict() for name in ("mixture", "dense", "other"))
    assert mixture.keys() == other.keys() and all(mixture[name].equal(other[name]) for name in mixture)
    shared = {name for name in mixture.keys() & dense.keys() if mixture[name].shape == dense[name].shape}
    assert {name.split(".")[1] for name in shared} >= {"language_model", "connectors", "encoders"}
    assert all(mixture[name].equal(dense[name]) for name in shared)
    ((again, text),) = build_starts({**tiny, "systems": {"dense": {}}}, output=tmp_path / "1", seed=1)
    assert "active" in text
    others = UniMoEForConditionalGeneration.from_pretrained(again).state_dict()
    name = "model.language_model.embed_tokens.weight"
    assert not dense[name].equal(others[name])
    tower = next(name for name in dense if ".encoders.image." in name)
    assert dense[tower].equal(others[tower])
    layout = UniMoEProcessor.from_pretrained(again).layout
    assert (layout.num_tokens["speech"], layout.num_tokens["audio"]) == (20, 5)


def test_a_whisper_for_short_windows_keeps_its_weights_and_first_positions() -> None:
    encoder = WhisperEncoder(WhisperConfig(d_model=16, encoder_layers=1, encoder_attention_heads=2, num_mel_bins=8))
    shorter = cut_whisper(encoder, seconds=1)
    assert shorter.embed_positions.weight.equal(encoder.embed_positions.weight[:50])
    assert shorter.layers[0].fc1.weight.equal(encoder.layers[0].fc1.weight)
    assert shorter(torch.zeros(1, 8, 100)).last_hidden_state.shape == (1, 50, 16)


def test_towers_that_are_missing_are_named_with_the_command(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m training\.real_parts .*models"):
        next(build_starts({**tiny, "speech": str(tmp_path / "models" / "none")}, output=tmp_path, seed=0))


def write_losses(folder: Path, *pairs: tuple[float, float]) -> None:
    folder.mkdir(parents=True)
    logs = [{"step": 1, "loss": 9.0}]
    logs += [
        {"step": step, "eval_loss": 0.0, "eval_loss/a": a, "eval_loss/b": b} for step, (a, b) in enumerate(pairs, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(log) + "\n" for log in logs), encoding="utf-8")


def test_losses_are_the_last_ones_and_their_mean_is_over_tasks(tmp_path: Path) -> None:
    write_losses(tmp_path / "run", (5.0, 5.0), (1.0, 2.0))
    assert read_losses(tmp_path / "run") == {"a": 1.0, "b": 2.0, ALL: 1.5}
    with pytest.raises(ConfigError, match="no losses of validation rows"):
        read_losses(tmp_path)


def test_differences_are_paired_by_seed_with_student_s_interval() -> None:
    found = subtract([1.0, 2.0, 3.0], [1.1, 2.2, 3.3])
    assert found.value == pytest.approx(-0.2) and found.by_seed == pytest.approx((-0.1, -0.2, -0.3))
    assert found.margin == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert subtract([1.0], [2.0]).margin is None
    with pytest.raises(ConfigError, match="2 and 1 trainings cannot be paired"):
        subtract([1.0, 2.0], [1.0])
    with pytest.raises(ConfigError, match="other files"):
        compare({"one": [{"a": 1.0}], "two": [{"b": 1.0}]})


def test_a_table_has_means_and_differences_to_the_first() -> None:
    rows = tabulate({"one": [{"a": 2.0}, {"a": 4.0}], "two": [{"a": 1.0}, {"a": 3.5}]})
    assert rows[0] == ["task", "one", "two", "two - one"]
    assert rows[1][:3] == ["a", "3.000", "2.250"] and rows[1][3].startswith("-0.750 (")
    assert to_markdown(rows).splitlines()[1] == "| --- | --- | --- | --- |"


def test_the_driver_writes_all_losses_and_puts_tables_into_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(graph: dict[Step, set[Step]], settings: Settings, **_: Any) -> None:
        for step in graph:
            if step.name != "data":
                write_losses(settings.seed_folder(step.seed) / step.name, (1.0 + step.seed, len(step.name)))

    monkeypatch.setattr(driver, "run_steps", train)
    monkeypatch.setattr(driver, "read_cost", lambda recipe, stage: Cost(1, 2, 3.0, len(stage)))
    document = tmp_path / "page.md"
    document.write_text("# Page\n\n## A mixture beside dense models\n\nnone yet\n\n## After\n")
    asked = [str(tmp_path), "--only", "main", "--seeds", "2", "--markdown", str(document)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "losses.json").read_text())
    assert report["losses"]["main"]["mixture"][1] == {"a": 2.0, "b": 7.0, ALL: 4.5}
    assert (
        report["differences"]["main"]["mixture"][ALL]["value"] == 1.0
    )  # "mixture" is two letters longer than "dense"
    assert report["costs"]["main"]["mixture"] == [[1, 2, 3.0, 7]] * 2
    text = document.read_text()
    assert "none yet" not in text and "| task |" in text and "## After" in text
    assert "Nats per label after 1 rows; means over 2 seeds." in text


def test_the_losses_of_folders_are_printed_beside_each_other(tmp_path: Path) -> None:
    write_losses(tmp_path / "one", (1.0, 2.0))
    own = Typer()
    own.command()(losses_module.main)
    done = CliRunner().invoke(own, [f"x={tmp_path / 'one'}", f"y={tmp_path / 'one'}", "--markdown"])
    assert done.exit_code == 0 and "| all | 1.500 | 1.500 | +0.000 |" in done.output
    assert CliRunner().invoke(own, [f"x={tmp_path / 'none'}"]).exit_code == 2
