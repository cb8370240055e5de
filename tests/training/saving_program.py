"""Trains a linear layer and writes a checkpoint after every step, without end: FOLDER."""

import sys
from pathlib import Path

import torch
from torch import nn

from training.checkpoint.folder import write_checkpoint
from training.checkpoint.state import save_state


class Small(nn.Module):
    """What `save_state` needs of a model: weights of some size, none of them tied."""

    all_tied_weights_keys: dict[str, str] = {}

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))


def begin() -> tuple[Small, torch.optim.Optimizer]:
    model = Small()
    return model, torch.optim.AdamW(model.parameters())


def learn(model: Small, optimizer: torch.optim.Optimizer) -> None:
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimizer.step()
    optimizer.zero_grad()


def save(folder: Path, step: int, model: Small, optimizer: torch.optim.Optimizer) -> None:
    facts = {"step": step, "processes": 1, "rows": {"step": 1, "batch": 1}}
    write_checkpoint(folder, step, lambda aside: save_state(aside, model, optimizer), facts=facts, limit=1)


def main() -> None:
    model, optimizer = begin()
    for step in range(1, 1_000_000):
        learn(model, optimizer)
        save(Path(sys.argv[1]), step, model, optimizer)


if __name__ == "__main__":
    main()
