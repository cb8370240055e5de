"""Run by a Python that has llm-compressor: writes which experts its REAP keeps.

python tests/surgery/llm_compressor.py MODEL_FOLDER ROWS REPORT SHARE
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning.reap import REAPPruningModifier
from transformers import AutoModelForCausalLM

folder, rows, report, share = sys.argv[1:]
ids = json.loads(Path(rows).read_text())
data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})
data.set_format("torch")
oneshot(
    model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
    dataset=data,
    recipe=[REAPPruningModifier(sparsity=float(share), report_path=report)],
    num_calibration_samples=len(ids),
    max_seq_length=len(ids[0]),
    pipeline="basic",  # all layers see the model before it is pruned, as in the paper
    moe_calibrate_all_experts=False,
)
