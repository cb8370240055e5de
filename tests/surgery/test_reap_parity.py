"""The experts that REAP keeps here are those that llm-compressor keeps."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from stock import STOCK
from tiny import TEXT
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from unimoe.surgery.calibration import as_batch
from unimoe.surgery.choice import Wish
from unimoe.surgery.prune import choose_experts

# What llm-compressor 0.14.0.1 with transformers 5.17.0 kept of these models, by the script beside this file.
KEPT = {"qwen3_moe": {0: [0, 2, 3, 5], 1: [0, 1, 4, 5]}, "olmoe": {0: [1, 2, 4, 5], 1: [0, 1, 3, 6]}}
PYTHON = os.environ.get("UNIMOE_LLM_COMPRESSOR_PYTHON", "")


def make(kind: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**TEXT, **STOCK[kind], "num_experts_per_tok": 2, "num_experts": 8})
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def rows() -> torch.Tensor:
    return torch.randint(3, 60, (6, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KEPT)
def test_what_llm_compressor_kept_is_kept(kind: str) -> None:
    kept, _ = choose_experts(make(kind), [as_batch({"input_ids": rows()})], Wish(ratio=0.5))
    assert kept == KEPT[kind]


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="UNIMOE_LLM_COMPRESSOR_PYTHON names no Python that has llm-compressor")
@pytest.mark.parametrize("kind", KEPT)
def test_llm_compressor_keeps_the_same(kind: str, tmp_path: Path) -> None:
    make(kind).save_pretrained(tmp_path / "model")
    (tmp_path / "rows.json").write_text(json.dumps(rows().tolist()))
    script = Path(__file__).with_name("llm_compressor.py")
    files = [str(tmp_path / name) for name in ("model", "rows.json", "kept.json")]
    subprocess.run([PYTHON, str(script), *files, "0.5"], check=True, env={**os.environ, "PYTHONPATH": ""})
    report = json.loads((tmp_path / "kept.json").read_text())
    assert {int(name.split(".")[2]): kept for name, kept in report.items()} == KEPT[kind]
