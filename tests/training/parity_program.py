"""Runs the stages of a file one after the other, and notes in OUTPUT/noted.pt the reduced gradients of every step."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from training.config.stage import StageConfig
from training.distributed.processes import from_all, rank
from training.distributed.sharding import unshard
from training.stage.run import run_stage
from training.trainer.trainer import StageTrainer
from unimoe.modality import Modality
from unimoe.moe.experts import DispatchedExperts, TokenDispatcher

noted: dict[str, list[Any]] = {}
prepare, check, compute = StageTrainer._prepare_for_training, StageTrainer._check_gradients, StageTrainer.compute_loss


def note_gradients(trainer: Any, read: Any) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    whole = {name: unshard(parameter, read(parameter)).detach().clone() for name, parameter in trained}
    noted["gradients"].append(whole)


def prepare_and_watch(self: Any, *args: Any) -> Any:
    prepared = prepare(self, *args)
    if self.is_deepspeed_enabled:
        from deepspeed.utils import safe_get_full_grad

        engine = self.model_wrapped
        assert type(engine).__name__ == "DeepSpeedEngine"
        stacks = [module for module in engine.module.modules() if isinstance(module, DispatchedExperts)]
        sharded = [stack for stack in stacks if type(stack.token_dispatcher) is not TokenDispatcher]
        assert bool(sharded) == (self.expert_parallel_size > 1)
        noted["local_experts"] = [stack.num_experts for stack in sharded]
        step = engine.step

        def note_and_step(*args: Any, **kwargs: Any) -> Any:
            note_gradients(self, safe_get_full_grad)
            return step(*args, **kwargs)

        engine.step = note_and_step
    return prepared


def check_and_note(self: Any) -> None:
    if not self.is_deepspeed_enabled:
        note_gradients(
            self, lambda parameter: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        )
    check(self)


def compute_and_note(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Which processes have images in a batch."""
    noted["images"].append(from_all(bool((inputs["mm_token_type_ids"] == Modality.IMAGE).any())))
    return compute(self, model, inputs, *args, **kwargs)


def main() -> None:
    StageTrainer._prepare_for_training = prepare_and_watch  # type: ignore[method-assign]
    StageTrainer._check_gradients = check_and_note  # type: ignore[method-assign]
    StageTrainer.compute_loss = compute_and_note  # type: ignore[method-assign]
    for values in json.loads(Path(sys.argv[1]).read_text()):
        stage = StageConfig.model_validate(values)
        noted.clear()
        noted.update(gradients=[], images=[])
        run_stage(stage, console=Console(quiet=True))
        if rank() == 0:
            torch.save(dict(noted), Path(stage.output) / "noted.pt")


if __name__ == "__main__":
    main()
