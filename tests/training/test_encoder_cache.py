"""Encoders that run once: the same losses and gradients as at every step, for every kind of medium."""

import json
from pathlib import Path

import torch
from rich.console import Console
from transformers import AutoModelForMultimodalLM

from training.stages import run_stage


def losses(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights(folder):
    return AutoModelForMultimodalLM.from_pretrained(folder).state_dict()


def run(config):
    console = Console(record=True, width=200, quiet=False)
    run_stage(config, console=console)
    return console.export_text()


def test_a_stage_with_kept_tokens_trains_as_one_without(make_stage, tmp_path):
    trainer = {"max_steps": 4, "learning_rate": 0.01}
    plain = make_stage(trainer=trainer, output=str(tmp_path / "plain"))
    kept = make_stage(trainer=trainer, data={"cache_encoders": True}, output=str(tmp_path / "kept"))
    run(plain)
    said = run(kept)
    assert "encoding" in said
    torch.testing.assert_close(losses(kept.output), losses(plain.output), rtol=0, atol=1e-6)
    torch.testing.assert_close(weights(kept.output), weights(plain.output), rtol=0, atol=1e-6)
    assert "all media are encoded already" in run(
        make_stage(trainer=trainer, data={"cache_encoders": True}, output=str(tmp_path / "again"))
    )
