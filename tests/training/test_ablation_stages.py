"""The variants of the ablations train: each from dense models to the experts that its name promises."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from training.config.recipe import load_recipe
from training.config.training_arguments import arguments_for_estimate
from training.stage.run import run_stage
from training.trainer.start import load_stage_model

RECIPE = Path(__file__).parents[2] / "configs" / "ablations" / "recipe.yaml"
VARIANTS = {"mixed": (4, 2), "top_p": (4, 4), "no_balance": (4, 2), "copies": (4, 2), "eight": (8, 2), "one": (0, 2)}


def from_tiny(start: Any, folder: str) -> Any:
    """The same start with one tiny model in the place of all."""
    if isinstance(start, dict):
        return {key: from_tiny(value, folder) for key, value in start.items()}
    return folder if isinstance(start, str) and "/" in start else start


def check_variant(stage: str, text: Any) -> None:
    assert (text.num_experts, text.num_experts_per_tok) == VARIANTS[stage]
    assert text.router_type == ("top_p" if stage == "top_p" else "top_k")
    assert text.router_aux_loss_coef == (0 if stage == "no_balance" else 0.01)


@pytest.fixture
def make_variant(workspace, make_stage):
    def make(stage):
        recipe = load_recipe(RECIPE).stages[stage]
        start = from_tiny(recipe.model_dump()["start"], str(workspace / "start"))
        return make_stage(start=start, train=recipe.train.model_dump())

    return make


@pytest.mark.parametrize("stage", VARIANTS)
def test_every_variant_begins_with_the_experts_that_it_is_named_after(stage, make_variant):
    config = make_variant(stage)
    check_variant(stage, load_stage_model(config, arguments_for_estimate(config)).model.config.text_config)


@pytest.mark.parametrize(
    "stage", ["top_p", *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name != "top_p")]
)
def test_every_variant_trains(stage, make_variant):
    check_variant(stage, AutoConfig.from_pretrained(run_stage(make_variant(stage), name=stage)).text_config)
