"""Validation rows: their loss is exact, shows in the log, and looking at them changes nothing of the training."""

import io
import json
from pathlib import Path

import pytest
import torch
from launch import train
from rich.console import Console
from transformers import AutoModelForMultimodalLM, AutoProcessor

from training.config.stage import StageConfig
from training.config.train import ValidationConfig
from training.config.training_arguments import training_arguments
from training.data import Collator, DataError, MixtureDataset
from training.data.mixture.dataset import read_mixture
from training.data.mixture.order import SampleIndex
from training.data.mixture.shuffled_media import ShuffledMedia, asked_media
from training.monitor.values import NonFiniteLoss
from training.stage.run import run_stage
from training.trainer.answers import ANSWER_TOKENS, Prompts, generate_answers, reference, why_not_generated
from training.trainer.trainer import StageTrainer
from training.trainer.validation import row_losses, source_names
from unimoe.errors import ConfigError
from unimoe.files.settings import validate

VALIDATION = ("image_kind", "spoken_word")


@pytest.fixture
def quiet():
    return Console(file=io.StringIO(), width=120)


@pytest.fixture(scope="module")
def validation_files(workspace, tmp_path_factory):
    """Five rows of each file."""
    folder, data = tmp_path_factory.mktemp("validation"), workspace / "data"
    for name in VALIDATION:
        rows = (data / f"{name}_train.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{name}_train.jsonl").write_text("".join(rows[:5]))
    return [{"path": str(folder / f"{name}_train.jsonl"), "media_root": str(data)} for name in VALIDATION]


@pytest.fixture
def make_validated(make_stage, workspace, mixture_start, validation_files):
    """A stage that trains on sounds and text with dropout, and validates on pictures and speech."""

    def make(**changes):
        data = {
            "mixture": [str(workspace / "data" / f"{name}_train.jsonl") for name in ("sound_kind", "text")],
            "validation": validation_files,
            **changes.pop("data", {}),
        }
        trainer = {"max_steps": 4, "learning_rate": 0.01, **changes.pop("trainer", {})}
        train = {"parts": ["connectors"], "lora": {"parts": ["experts"], "r": 2}}
        return make_stage(start=mixture_start, data=data, trainer=trainer, train=train, **changes)

    return make


def metrics(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def evaluations(folder):
    return [line for line in metrics(folder) if "eval_loss" in line]


def losses_row_by_row(folder, data):
    """Each file's sum of losses and number of labels by the model's own loss, one row at a time."""
    model, processor = AutoModelForMultimodalLM.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    sums = {}
    for source in read_mixture(data.validation_data):
        dataset = MixtureDataset([source], seed=0)
        sums[Path(source.path).name.removesuffix(".jsonl")] = found = torch.zeros(2)
        for row in range(dataset.num_rows):
            batch = Collator(processor)([dataset[row]])
            del batch["row_ids"]
            labels = (batch["labels"][:, 1:] >= 0).sum()
            with torch.no_grad():
                found += torch.tensor([float(model(**batch).losses["language"]) * labels, labels])
    return sums


def test_the_loss_is_the_mean_over_all_labels_of_the_models_own_loss(make_validated, quiet):
    stage = make_validated(trainer={"per_device_eval_batch_size": 5})
    run_stage(stage, console=quiet)
    sums = losses_row_by_row(stage.output, stage.data)
    last = evaluations(stage.output)[-1]
    for name, (loss, labels) in sums.items():
        assert last[f"eval_loss/{name}"] == pytest.approx(float(loss / labels), rel=1e-5)
    total = torch.stack(list(sums.values())).sum(dim=0)
    assert last["eval_loss"] == pytest.approx(float(total[0] / total[1]), rel=1e-5)
    assert last["eval_rows"] == sum(len(Path(s.path).read_text().splitlines()) for s in stage.data.validation)


def test_it_is_looked_at_before_the_first_step_on_the_way_and_once_at_the_end(make_validated, quiet, tmp_path):
    stage = make_validated(trainer={"max_steps": 5, "eval_steps": 2})
    run_stage(stage, console=quiet)
    assert [line["step"] for line in evaluations(stage.output)] == [0, 2, 4, 5]
    shown = quiet.file.getvalue()
    assert shown.count("validation loss") == 4 and "image_kind_train" in shown
    epochs = make_validated(
        output=str(tmp_path / "epochs"),
        trainer={"max_steps": -1, "num_train_epochs": 1, "eval_strategy": "epoch", "per_device_train_batch_size": 16},
    )
    run_stage(epochs, console=quiet)
    steps = [line["step"] for line in evaluations(epochs.output)]
    assert len(steps) == 2 and steps[0] == 0, "each epoch's end once"


def test_shuffled_media_give_each_row_those_of_another_of_its_kind(workspace, make_stage, quiet):
    """Rows that share a medium share another; the loss is that of the rows as they then are."""
    data = workspace / "data"
    files = {"mixture": [str(data / "text_train.jsonl")], "validation": [str(data / "image_kind_train.jsonl")]}
    stage = make_stage(data=files, trainer={"eval_steps": 1}, train={"parts": ["mlp"]})
    run_stage(stage, console=quiet)
    (source,) = read_mixture(stage.data.validation_data)
    dataset = MixtureDataset([source], seed=stage.seed)
    shuffled = ShuffledMedia(dataset, [range(dataset.num_rows)])
    paths = [[item["path"] for item in asked_media(row)] for row in source.rows]
    assert sorted(shuffled.donors) == list(range(dataset.num_rows))
    assert all(paths[row] != paths[donor] for row, donor in shuffled.donors.items())
    given = {}
    for row, donor in shuffled.donors.items():
        assert given.setdefault(str(paths[row]), paths[donor]) == paths[donor]
    processor = AutoProcessor.from_pretrained(stage.output)
    model = AutoModelForMultimodalLM.from_pretrained(stage.output).eval()
    batch = Collator(processor)([shuffled[SampleIndex(0, row, row)] for row in range(dataset.num_rows)])
    del batch["row_ids"]
    with torch.no_grad():
        losses, labels = row_losses(model, batch)
    last = evaluations(stage.output)[-1]
    assert last["eval_loss_shuffled"] == pytest.approx(float(losses.sum() / labels.sum()), rel=1e-5)


def test_rows_without_media_have_none_to_shuffle(make_validated, workspace, quiet):
    files = {name: [str(workspace / "data" / f"{name}_train.jsonl")] for name in ("sound_kind", "text")}
    stage = make_validated(data={"mixture": files["sound_kind"], "validation": files["text"]})
    run_stage(stage, console=quiet)
    assert not [key for key in evaluations(stage.output)[-1] if "shuffled" in key]


def test_answers_are_those_of_generate_row_by_row(make_validated, quiet):
    stage = make_validated()
    run_stage(stage, console=quiet)
    processor = AutoProcessor.from_pretrained(stage.output)
    model = AutoModelForMultimodalLM.from_pretrained(stage.output).eval()
    last = evaluations(stage.output)[-1]
    for source in read_mixture(stage.data.validation_data):
        dataset, answers = MixtureDataset([source], seed=0), []
        for row in range(dataset.num_rows):
            inputs = Prompts(processor)([dataset[row]])
            answers += generate_answers(model, processor, inputs, max_new_tokens=ANSWER_TOKENS)
        labels = [reference(row) for row in source.rows]
        name = Path(source.path).stem
        assert last[f"eval_exact_match/{name}"] == sum(map(str.__eq__, answers, labels)) / len(labels)
        assert last[f"eval_distinct_labels/{name}"] == len(set(labels))


def test_neither_is_measured_where_a_stage_wants_none(make_validated, quiet):
    stage = make_validated()
    stage.train.validation = ValidationConfig(answers=0, shuffled_media=False)
    run_stage(stage, console=quiet)
    assert not [key for key in evaluations(stage.output)[-1] if "shuffled" in key or "exact" in key]


@pytest.mark.parametrize(
    ("parallel", "reason"),
    [({"zero": 3}, "under ZeRO-3"), ({"zero": 1, "expert_parallel_size": 2}, "sharded experts")],
)
def test_where_no_answers_can_be_generated_is_said(mixture_start, parallel, reason):
    model = AutoModelForMultimodalLM.from_pretrained(mixture_start)
    size = parallel.get("expert_parallel_size", 1)
    said = why_not_generated(model, partitions=parallel["zero"] == 3, expert_parallel_size=size)
    assert reason in said and why_not_generated(model, partitions=False, expert_parallel_size=1) == ""
    model.config.text_config.router_type = "expert_choice"
    assert "cannot generate" in why_not_generated(model, partitions=False, expert_parallel_size=1)


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_looking_changes_nothing_of_the_training(make_validated, mixture_start, quiet, tmp_path, workers):
    dropping = tmp_path / "dropout"
    model = AutoModelForMultimodalLM.from_pretrained(mixture_start)
    model.config.text_config.attention_dropout = 0.2
    model.save_pretrained(dropping)
    AutoProcessor.from_pretrained(mixture_start).save_pretrained(dropping)
    states, settings = [], []
    for name, data, trainer in (("with", {}, {"eval_steps": 1}), ("without", {"validation": []}, {})):
        stage = make_validated(data={**data, "num_workers": workers}, trainer=trainer, output=str(tmp_path / name))
        stage.start.path = str(dropping)
        states.append(AutoModelForMultimodalLM.from_pretrained(run_stage(stage, console=quiet)).state_dict())
        settings.append(
            [(Path(stage.output) / f"{each}.json").read_bytes() for each in ("config", "generation_config")]
        )
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []
    assert settings[0] == settings[1]


def test_batches_and_a_limit_that_all_rows_keep_change_nothing(make_validated, quiet, tmp_path):
    stages = [
        make_validated(output=str(tmp_path / name), data=data, trainer={"max_steps": 1, **trainer})
        for name, data, trainer in (
            ("plain", {}, {}),
            ("single", {"max_length": 500, "too_long": "drop"}, {"per_device_eval_batch_size": 1}),
        )
    ]
    first, second = (evaluations(run_stage(stage, console=quiet))[0] for stage in stages)
    assert first.keys() == second.keys()
    assert all(second[key] == pytest.approx(value, rel=1e-5) for key, value in first.items())


def test_rows_that_are_too_long_are_treated_as_those_of_the_training(make_validated, quiet):
    with pytest.raises(DataError, match=r"data\.max_length is 5"):
        run_stage(make_validated(data={"max_length": 5}), console=quiet)


def test_a_stage_that_is_resumed_looks_as_often_as_an_unbroken_one(make_validated, quiet, tmp_path, monkeypatch):
    unbroken, broken = (
        make_validated(output=str(tmp_path / name), trainer={"max_steps": 6, "eval_steps": 2, "save_steps": 2})
        for name in ("unbroken", "broken")
    )
    run_stage(unbroken, console=quiet)
    step = StageTrainer.training_step

    def stop_at_five(self, *args, **kwargs):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StageTrainer, "training_step", stop_at_five)
        run_stage(broken, console=quiet)
    run_stage(broken, console=quiet, resume=True)
    assert evaluations(broken.output) == evaluations(unbroken.output)


def test_a_loss_that_is_not_finite_names_the_validation_rows(make_validated, quiet, tmp_path):
    stage = make_validated()
    broken = AutoModelForMultimodalLM.from_pretrained(stage.start.path)
    connector = broken.model.connectors["speech"]
    next(connector.parameters()).data.fill_(1e38)
    broken.save_pretrained(tmp_path / "broken")
    AutoProcessor.from_pretrained(stage.start.path).save_pretrained(tmp_path / "broken")
    stage.start.path = str(tmp_path / "broken")
    with pytest.raises(
        NonFiniteLoss, match=r"^Step 0: The loss of validation rows is not finite: spoken_word-"
    ) as raised:
        run_stage(stage, console=quiet)
    assert "image" not in str(raised.value)


@pytest.mark.parametrize(
    ("data", "trainer", "problem"),
    [
        ({"validation": [{"path": "b.jsonl", "weight": 2}]}, {}, r"data.*b\.jsonl: .*looked at once"),
        ({"validation": [{"path": "b.jsonl", "stream": True}]}, {}, r"b\.jsonl: .*looked at once"),
        ({"validation": ["a.jsonl"]}, {}, r"a\.jsonl is in the mixture too"),
        (
            {"validation": []},
            {"share": 0.1},
            r"train\.validation: there are no validation rows\. Set data\.validation",
        ),
        ({}, {"eval_strategy": "steps"}, r"eval_strategy: there are no validation rows\. Set data\.validation"),
        ({"validation": ["b.jsonl"]}, {"eval_strategy": "no"}, r"data\.validation would not be used"),
        ({"validation": ["b.jsonl"]}, {"eval_strategy": False}, r"eval_strategy is no"),  # as YAML reads `no`
    ],
)
def test_what_would_not_hold_is_refused_when_it_is_read(data, trainer, problem):
    train = {"parts": ["router"], "validation": {"share": trainer.pop("share", 0.05)}}
    values = {"start": "x", "train": train, "trainer": trainer, "output": "y"}
    with pytest.raises(ConfigError, match=problem):
        validate(StageConfig, {**values, "data": {"mixture": ["a.jsonl"], **data}}, source="stage.yaml")


def test_files_are_named_shortly_but_apart():
    assert source_names(["a/x.jsonl", "b/x.jsonl", "b/y.json"]) == ["a/x.jsonl", "b/x.jsonl", "y"]
    with pytest.raises(ConfigError, match="named twice"):
        source_names(["a.jsonl", "a.jsonl"])


def test_a_stage_overrules_how_often_it_is_looked_at(make_validated):
    args = training_arguments(make_validated(trainer={"eval_steps": 7, "eval_on_start": False}))
    assert (args.eval_steps, args.eval_on_start, args.per_device_eval_batch_size) == (7, False, 4)


@pytest.mark.distributed
@pytest.mark.parametrize(("processes", "zero"), [(2, None), (2, 2), (2, 3)])
def test_processes_with_unlike_numbers_of_rows_measure_what_one_measures(
    make_validated, workspace, tmp_path, processes, zero
):
    data = tmp_path / "one.jsonl"  # so that one process has a batch and the other one has none
    rows = (workspace / "data" / "image_kind_train.jsonl").read_text().splitlines()
    data.write_text(rows[0])
    changes = {"data": {"validation": [{"path": str(data), "media_root": str(workspace / "data")}]}}
    one = make_validated(output=str(tmp_path / "one"), trainer={"per_device_train_batch_size": 4}, **changes)
    changes["parallel"] = {"zero": zero}
    two = make_validated(output=str(tmp_path / "two"), trainer={"per_device_train_batch_size": 2}, **changes)
    train(one, tmp_path / "stage.yaml")
    train(two, tmp_path / "stage.yaml", processes=processes)
    expected, actual = evaluations(one.output), evaluations(two.output)
    assert [line["step"] for line in expected] == [line["step"] for line in actual]
    for first, second in zip(expected, actual, strict=True):
        assert second["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-4) and second["eval_rows"] == 1
