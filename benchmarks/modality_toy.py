"""Which modality mode fits two modalities that have nothing in common? A regression on planted clusters, in seconds.

`python -m benchmarks.modality_toy`. Two modalities of three clusters each; every cluster has its own linear teacher.
One sparse layer of 8 experts, top-2, learns them under each mode with the same number of parameters. Printed are the
error of each modality, the bits that a token's experts tell about its modality, and the least load of an expert: means
over seeds. A toy shows what can happen, not what large models do.
"""

from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from unimoe import UniMoETextConfig
from unimoe.moe import RoutingContext, SparseMoeBlock, router_losses, stack_layers, weighted_router_loss
from unimoe.moe.experts.build import init_experts
from unimoe.moe.routers.build import init_router

WIDTH, EXPERTS, CLUSTERS, TOKENS = 32, 8, 3, 256
TEXT, IMAGE = 0, 1
ISOLATED = {"text": [0, 1, 2, 3], "image": [4, 5, 6, 7]}
SEMI = {"text": [0, 1, 2], "image": [3, 4, 5]}

VARIANTS: dict[str, dict[str, Any]] = {
    "shared, no balance loss": {},
    "shared, balance over the layer": {"router_aux_loss_coef": 0.01},
    "shared, balance of each modality": {"router_aux_loss_coef": 0.01, "router_aux_loss_scope": "modality"},
    "bias": {"modality_routing": "bias"},
    "separate": {"modality_routing": "separate"},
    "semi-isolated, 3 + 3 + 2 common": {
        "modality_routing": "semi_isolated",
        "expert_groups": SEMI,
        "router_aux_loss_coef": 0.01,
    },
    "isolated, 4 + 4": {"modality_routing": "isolated", "expert_groups": ISOLATED, "router_aux_loss_coef": 0.01},
}


class World(NamedTuple):
    """Centres (modalities, clusters, D) of the tokens, and the teachers (modalities, clusters, D, D)."""

    centres: Tensor
    teachers: Tensor

    def sample(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (T, D), their modality (T,) and what is to be computed of them (T, D)."""
        modality, cluster = torch.randint(2, (number,)), torch.randint(CLUSTERS, (number,))
        tokens = self.centres[modality, cluster] + torch.randn(number, WIDTH)
        answers = torch.einsum("tij,tj->ti", self.teachers[modality, cluster], tokens).tanh()
        return tokens, modality, answers


class Outcome(NamedTuple):
    """What one run came to."""

    text_error: float
    image_error: float
    information: float
    least_load: float


def make_block(fields: dict[str, Any]) -> SparseMoeBlock:
    """Make the sparse block of a variant."""
    config = UniMoETextConfig(
        **{
            "hidden_size": WIDTH,
            "num_attention_heads": 1,
            "intermediate_size": WIDTH,
            "num_experts": EXPERTS,
            "router_aux_loss_coef": 0.0,
            "router_z_loss_coef": 0.0,
            **fields,
        }
    )
    block = SparseMoeBlock(config)
    init_router(block.router, 0.02)
    init_experts(block.experts, WIDTH**-0.5)
    return block


def run(fields: dict[str, Any], seed: int, steps: int) -> Outcome:
    """Train one layer and measure it on fresh tokens."""
    torch.manual_seed(seed)
    shape = (2, CLUSTERS, WIDTH)
    world = World(1.2 * torch.randn(shape), torch.randn(*shape, WIDTH) / WIDTH**0.5)
    block = make_block(fields)
    optimizer = torch.optim.Adam(block.parameters(), lr=3e-3)
    for _ in range(steps):
        tokens, modality, answers = world.sample(TOKENS)
        routing = block.router(tokens, RoutingContext(modality))
        output = block.experts(tokens, routing.top_k_index, routing.top_k_weights)
        losses = router_losses(block.config, stack_layers([routing.record]), modality_ids=modality[None])
        loss = F.mse_loss(output, answers) + weighted_router_loss(block.config, losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return measure(block, world)


@torch.no_grad()
def measure(block: SparseMoeBlock, world: World) -> Outcome:
    """Error of each modality, mutual information of modality and expert in bits, and the least load."""
    tokens, modality, answers = world.sample(3000)
    routing = block.router(tokens, RoutingContext(modality))
    output = block.experts(tokens, routing.top_k_index, routing.top_k_weights)
    error = (output - answers).square().mean(dim=-1)
    counts = F.one_hot(modality, 2).double().T @ routing.record.expert_mask.double()  # (2, E)
    joint = counts / counts.sum()
    ratio = joint / (joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)).clamp(min=1e-30)
    information = torch.where(joint > 0, joint * ratio.clamp(min=1e-30).log2(), 0.0).sum()
    text, image = (float(error[modality == kind].mean()) for kind in (TEXT, IMAGE))
    return Outcome(text, image, float(information), float(joint.sum(0).min()))


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of a run.")] = 350,
) -> None:
    """Train every variant and print the means."""
    table = Table("modality mode", "text error", "image error", "bits about modality", "least load")
    for name, fields in VARIANTS.items():
        outcomes = [run(fields, seed, steps) for seed in range(seeds)]
        means = [sum(values) / seeds for values in zip(*outcomes, strict=True)]
        table.add_row(name, *(f"{value:.3f}" for value in means))
    Console(width=119).print(table)


if __name__ == "__main__":
    typer.run(main)
