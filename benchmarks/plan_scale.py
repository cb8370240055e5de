"""Memory and traffic of large mixtures on many GPUs, by the formulas of `training plan`; nothing is allocated.

`python -m benchmarks.plan_scale` prints a Markdown table. Weights, gradients and Adam's states are in float32, tokens
travel in bf16; activations are not counted.
"""

from typing import Any

import torch
from rich.console import Console

from training.config.stage import StageConfig
from training.config.training_arguments import arguments_for_estimate
from training.planning.memory import GB, GRADIENTS, OPTIMIZER, WEIGHTS, StepMemory
from training.planning.memory_parallel import across_processes, trained_bytes
from training.planning.traffic import Placement, step_traffic
from unimoe import UniMoEForCausalLM, UniMoETextConfig

TOKENS = 4096
"""Of one process in a batch."""
MODELS: dict[str, dict[str, Any]] = {
    "7B, four experts": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "vocab_size": 32000,
    },
    "100B class, 128 experts": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "num_hidden_layers": 48,
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "vocab_size": 151936,
    },
}
LAYOUTS = {
    "7B, four experts": [(8, 1, 2), (8, 4, 2), (8, 1, 3), (8, 4, 3), (32, 4, 3)],
    "100B class, 128 experts": [(64, 8, 2), (64, 8, 3), (128, 8, 3), (128, 16, 3), (128, 64, 3)],
}
"""Processes, of which so many share the experts, and the stage of ZeRO."""


def stage(size: int, zero: int) -> StageConfig:
    """Return a stage that trains all of the language model."""
    return StageConfig.model_validate(
        {
            "start": "model",
            "train": {"parts": ["attention", "experts", "router"]},
            "data": {"mixture": ["data.jsonl"]},
            "parallel": {"zero": zero, "expert_parallel_size": size},
            "trainer": {"bf16": True, "activation_checkpointing": True},
            "output": "out",
        }
    )


def main() -> None:
    """Print the table."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        "| model | GPUs | share experts | ZeRO | state of each, GB | exchange, GB | gradients, GB | weights, GB |"
    )
    console.print("|---|---|---|---|---|---|---|---|")
    for name, values in MODELS.items():
        text = UniMoETextConfig(**values, tie_word_embeddings=False)
        with torch.device("meta"):
            model: Any = UniMoEForCausalLM(text).float()
        placement, trained = Placement.of(model), trained_bytes(model)
        whole = sum(parameter.nbytes for parameter in model.parameters())
        parts = {WEIGHTS: whole, GRADIENTS: trained, OPTIMIZER: 2 * trained}
        for processes, size, zero in LAYOUTS[name]:
            config = stage(size, zero)
            step = StepMemory(dict(parts), dict(parts), flops=0)
            state = across_processes(step, config, model, processes=processes, on_cpu=False).total
            sent = step_traffic(
                config,
                arguments_for_estimate(config),
                placement,
                processes=processes,
                choices=TOKENS * text.num_experts_per_tok,
                num_experts=text.num_experts,
                hidden_size=text.hidden_size,
            )
            numbers = [f"{number / GB:.1f}" for number in (state, sent.exchange, sent.gradients, sent.weights)]
            label = f"{name}, {whole / 4e9:.1f}"
            console.print(f"| {label} | {processes} | {size} | {zero} | {' | '.join(numbers)} |")


if __name__ == "__main__":
    main()
