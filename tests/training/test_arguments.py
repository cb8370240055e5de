"""Each argument of transformers' Trainer has its effect in a stage, or is refused with the reason."""

import dataclasses

import pytest
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from training.config.arguments import FORMER, PASSED_ON, REFUSED, VALIDATION_ONLY
from training.config.recipe import merge
from training.config.stage import StageConfig
from training.config.training_arguments import training_arguments
from unimoe.errors import ConfigError
from unimoe.files.settings import validate

STAGE = {
    "start": "models/start",
    "train": {"parts": ["connectors"]},
    "data": {"mixture": ["rows.jsonl"]},
    "output": "runs/stage",
}
FIELDS = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}


def refusal(**changes) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(StageConfig, merge(STAGE, changes), source="file.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bf16_on_a_processor_has_to_be_asked_for(monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    stage = StageConfig.model_validate(merge(STAGE, {"trainer": {"bf16": True}}))
    with pytest.raises(ConfigError, match=r"^trainer\.bf16: there is no GPU here\. Set trainer\.use_cpu: true"):
        training_arguments(stage)
    stage.trainer["use_cpu"] = True
    assert training_arguments(stage).bf16


def test_somebody_has_decided_for_every_field_of_this_version():
    """Read in the Trainer of a new version what a new field does, and put it into one of the tables."""
    assert {*PASSED_ON, *REFUSED} == FIELDS
    assert not PASSED_ON & REFUSED.keys() and not FORMER.keys() & FIELDS
    assert set(VALIDATION_ONLY) <= PASSED_ON


@pytest.mark.parametrize("name", [*REFUSED, *FORMER])
def test_what_would_have_no_effect_is_refused_with_a_cure(name):
    message = refusal(trainer={name: 1})
    assert message.startswith(f"file.yaml: the file: trainer.{name}: leave it out. ")
    assert message.endswith((REFUSED | FORMER)[name]) and message.endswith(".")


@pytest.mark.parametrize(
    "name", sorted({field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)} - FIELDS - FORMER.keys())
)
def test_arguments_of_other_trainers_are_unknown(name):
    assert f"trainer.{name}: unknown key" in refusal(trainer={name: 1})


@pytest.mark.parametrize("name", VALIDATION_ONLY)
def test_arguments_of_validation_need_some(name):
    assert f"trainer.{name}: there are no validation rows. Set data.validation." in refusal(trainer={name: 1})
    values = merge(STAGE, {"trainer": {name: 1}, "data": {"validation": ["other.jsonl"]}})
    assert validate(StageConfig, values, source="file.yaml").trainer == {name: 1}


def test_an_unknown_argument_is_offered_one_that_is_passed_on():
    assert "trainer.lerning_rate: unknown key. Did you mean 'learning_rate'?" in refusal(trainer={"lerning_rate": 1})
    assert len(refusal(trainer={"x" * 10_000: 1})) < 500
