"""Runs the stages of a file, and writes to OUTPUT/traffic.json what went to collectives in each step."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

FEW = 400
"""Bytes of an all-reduced tensor below which it is a number that is logged, or a norm."""
counted: Counter[str] = Counter()
PAYLOADS = {
    "all_to_all_single": (1, "exchange"),
    "all_reduce": (0, "gradients"),
    "reduce_scatter_tensor": (1, "gradients"),
    "all_gather_into_tensor": (0, "weights"),
}


def count(name: str, place: int, kind: str) -> None:
    """Count the payload of a collective operation among several processes."""
    operation: Callable[..., Any] = getattr(dist, name)

    def run(*args: Any, **kwargs: Any) -> Any:
        given = [*args, *(value for value in kwargs.values() if isinstance(value, torch.Tensor))]
        payload = given[place]
        size = payload.numel() * payload.element_size()
        if dist.get_world_size(kwargs.get("group")) > 1 and (name != "all_reduce" or size > FEW):
            counted[kind] += size
        return operation(*args, **kwargs)

    setattr(dist, name, run)


for operation, (place, kind) in PAYLOADS.items():
    count(operation, place, kind)

from rich.console import Console  # noqa: E402

from training.config.stage import StageConfig  # noqa: E402
from training.distributed import exchange as expert_exchange  # noqa: E402
from training.distributed.processes import from_all, rank  # noqa: E402
from training.stage.run import run_stage  # noqa: E402
from training.trainer.trainer import EndStep  # noqa: E402

plan_splits, end_step = expert_exchange.plan_splits, EndStep.on_step_end
steps: list[dict[str, int]] = []


def plan_and_count(experts: torch.Tensor, num_experts: int, group: Any) -> Any:
    counted["choices"] += int((experts < num_experts).sum())
    return plan_splits(experts, num_experts, group)


def end_and_note(self: Any, *args: Any, **kwargs: Any) -> Any:
    total: Counter[str] = Counter()
    for own in from_all(dict(counted)):
        total.update(own)
    steps.append(dict(total))
    counted.clear()
    return end_step(self, *args, **kwargs)


def main() -> None:
    expert_exchange.plan_splits = plan_and_count  # type: ignore[assignment]
    EndStep.on_step_end = end_and_note  # type: ignore[method-assign]
    for values in json.loads(Path(sys.argv[1]).read_text()):
        stage = StageConfig.model_validate(values)
        steps.clear()
        run_stage(stage, console=Console(quiet=True))
        if rank() == 0:
            (Path(stage.output) / "traffic.json").write_text(json.dumps(steps))


if __name__ == "__main__":
    main()
