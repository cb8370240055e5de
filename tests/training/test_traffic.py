"""What processes hand to collective operations in a step is what the formulas of the plan say."""

import json
from pathlib import Path

import pytest
from test_expert_parallel import make_case, run, starts  # noqa: F401

from training.config.training_arguments import arguments_for_estimate
from training.planning.memory import meta_model
from training.planning.traffic import Placement, step_traffic
from unimoe import UniMoEConfig

CASES = {
    "plain": "plain",
    "accumulated": "accumulation",
    "checkpointing": "activation checkpointing",
    "lora": "experts by lora",
}


@pytest.mark.distributed
@pytest.mark.parametrize(("processes", "size", "zero"), [(2, 2, 2), (4, 2, 1), (4, 2, 3), (2, 1, 3)])
def test_traffic_is_what_the_formulas_say(make_case, tmp_path, processes, size, zero):  # noqa: F811
    stages = [make_case(case, tmp_path, processes=processes, zero=zero, size=size) for case in CASES.values()]
    run(stages, tmp_path / "stages.json", processes=processes, program="traffic_program.py")
    for stage in stages:
        counted = json.loads((Path(stage.output) / "traffic.json").read_text())[-1]
        config = UniMoEConfig.from_pretrained(stage.start.path)
        model, _ = meta_model(stage, config)
        placement = Placement.of(model)
        batches = placement.sparse_layers * stage.trainer.get("gradient_accumulation_steps", 1) * processes
        again = 2 if stage.trainer.get("activation_checkpointing") else 1
        expected = step_traffic(
            stage,
            arguments_for_estimate(stage),
            placement,
            processes=processes,
            choices=counted.get("choices", 0) / batches / again,
            num_experts=config.text_config.num_experts,
            hidden_size=config.text_config.hidden_size,
        )
        for kind in ("exchange", "gradients", "weights"):
            name = Path(stage.output).name
            assert counted.get(kind, 0) / processes == pytest.approx(getattr(expected, kind), rel=1e-4), (name, kind)
