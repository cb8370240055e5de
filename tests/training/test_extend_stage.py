"""A recipe that extends a mixture by a modality: data alone says it, and all other tensors stay as they are."""

import json
from pathlib import Path

import torch
from typer.testing import CliRunner

from training.__main__ import app
from training.config.recipe import load_recipe
from training.planning.models import DescribedRecipe
from unimoe.checkpoint.loading import load_mixture
from unimoe.surgery import Certificate, audit_change

NEW = ["reserved_experts.speech", "reserved_router.speech", "encoders.speech", "connectors.speech"]


def test_a_stage_trains_what_is_new_and_changes_no_other_tensor(workspace, make_sparse, tmp_path: Path) -> None:
    base, output = make_sparse(modality_routing="bias"), tmp_path / "extended"
    recipe = {
        "output": str(tmp_path),
        "stages": {
            "extended": {
                "start": {"extend": {"base": base, "modality": "speech", "num_experts": 3}},
                "train": {"parts": NEW},
                "data": {"mixture": [f"{workspace}/data/spoken_word_train.jsonl"]},
                "trainer": {
                    "max_steps": 2,
                    "per_device_train_batch_size": 4,
                    "learning_rate": 0.01,
                    "weight_decay": 0.5,
                    "report_to": "none",
                },
            }
        },
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe))  # JSON is YAML
    planned = DescribedRecipe().begin(load_recipe(file).stages["extended"])
    done = CliRunner().invoke(app, [str(file)])
    assert done.exit_code == 0, done.output[-2000:]
    assert Certificate.load(output).details["stage"]["train"]["parts"] == NEW
    model, _ = load_mixture(output)
    assert planned.config.text_config.reserved_experts == model.config.text_config.reserved_experts
    found = audit_change(base, output)
    moved = {part for part, (_, touched, _) in found.by_part().items() if touched}
    assert moved == {"encoders", "connectors"} and not found.gone
    before, _ = load_mixture(base)
    new, own = model.state_dict(), {name for part in NEW for name in model.parts()[part]}
    old = {name for name, value in before.state_dict().items() if torch.equal(value, new[name])}
    assert old >= before.state_dict().keys() - own
    assert all(".speech." in name for name in new.keys() - old)
