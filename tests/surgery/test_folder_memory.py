"""Memory of operations on folders: weights go from file to file, and one model at a time is loaded."""

import shutil
from pathlib import Path

import pytest
from peak_memory import GB, peak_memory, size
from surgery.rows import write_rows
from tiny_model import save_tiny

WIDE = {"hidden_size": 1024, "num_hidden_layers": 10, "num_attention_heads": 8, "num_key_value_heads": 8}


@pytest.mark.slow
def test_2_gb_are_pruned_in_less_than_3_gb(tmp_path: Path) -> None:
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 2048}
    save_tiny(tmp_path / "model", intermediate_size=2048, **experts, **WIDE)
    rows = write_rows(tmp_path / "data", each=1)
    peak, code = peak_memory(["prune", "model", "out", "--data", str(rows), "--ratio", "0.25"], tmp_path)
    read, written = size(tmp_path / "model", "*.safetensors"), size(tmp_path / "out", "*.safetensors")
    shutil.rmtree(tmp_path)
    assert code == 0 and read > 2 * GB and 0.74 * read < written < 0.8 * read
    assert 1 * GB < peak < 3 * GB


@pytest.mark.slow
def test_2_gb_are_upcycled_in_less_than_3_gb(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", intermediate_size=16384, **WIDE)
    peak, code = peak_memory(["upcycle", "model", "out", "--experts", "2"], tmp_path)
    read, written = size(tmp_path / "model", "*.safetensors"), size(tmp_path / "out", "*.safetensors")
    shutil.rmtree(tmp_path)
    assert code == 0 and read > 2 * GB and written > 1.8 * read
    assert 0.2 * GB < peak < 3 * GB
