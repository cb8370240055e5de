"""Mixtures of transformers are counted as their tensors are, and as torch counts their operations."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from stock import STOCK, make
from tiny import TEXT
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from unimoe.analysis.stock import build_stock, count_stock
from unimoe.cli import app


@pytest.mark.parametrize("kind", STOCK)
def test_counts_equal_tensors_and_operations(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    model.save_pretrained(tmp_path)
    counts, cost = count_stock(build_stock(tmp_path), context=1)
    text = model.config.get_text_config()
    stacks = [p for name, p in model.named_parameters() if ".experts." in name]
    one = sum(stack[0].numel() for stack in stacks)
    assert counts["total"] == sum(p.numel() for p in model.parameters())
    assert counts["total"] - counts["active"] == one * (4 - text.num_experts_per_tok)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.tensor([[5]]), use_cache=False)
    counted = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    assert cost.flops == sum(v for name, v in counted.items() if re.search(r"layers\.\d+$|lm_head$", name))
    read = [p for name, p in model.named_parameters() if "visual" not in name and "embed_tokens" not in name]
    row = text.hidden_size * 4
    assert cost.weight_bytes == sum(p.nbytes for p in read) + row - 4 * one * (4 - text.num_experts_per_tok)


def test_bytes_are_those_of_the_dtype_of_the_folder(tmp_path: Path) -> None:
    model = make("qwen3_moe")
    costs = []
    for dtype in (torch.float32, torch.bfloat16):
        model.to(dtype).save_pretrained(tmp_path / str(dtype))
        costs.append(count_stock(build_stock(tmp_path / str(dtype)))[1])
    assert costs[0].weight_bytes == 2 * costs[1].weight_bytes and costs[0].flops == costs[1].flops


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["info", *words])


def test_the_command_describes_a_stock_mixture_and_how_much_of_a_device_decoding_uses(tmp_path: Path) -> None:
    make("mixtral").save_pretrained(tmp_path)
    device = ("--tokens-per-second", "1000", "--bandwidth", "2", "--tflops", "0.1")
    done = run(str(tmp_path), *device)
    words = " ".join(done.output.split())
    assert done.exit_code == 0 and "MixtralForCausalLM of transformers" in words, done.output
    assert "4 of width 48, 2 for a token" in words
    _, cost = count_stock(build_stock(tmp_path))
    assert f"{cost.weight_bytes * 1000 / 2e9:.1%} of the bandwidth, {cost.flops * 1000 / 1e11:.1%}" in words
    few = run(str(tmp_path), *device[:2])
    assert few.exit_code == 2 and "needs --bandwidth and --tflops" in few.output


def test_a_dense_model_of_transformers_is_refused(tmp_path: Path) -> None:
    config = AutoConfig.for_model("llama", **TEXT)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    done = run(str(tmp_path))
    assert done.exit_code == 2 and "a LlamaForCausalLM, which has no stacked experts" in " ".join(done.output.split())
