"""Memory of a conversion: weights are written one by one, however large a shard is."""

import shutil
from pathlib import Path

import pytest
import reference_folders
import torch
from peak_memory import GB, peak_memory, size
from reference_folders import save_release

WORDS = ["convert", "tuned", "out", "--base", "base", "--vision", "clip", "--speech", "whisper", "--dtype", "bfloat16"]


@pytest.mark.slow
def test_4_gb_are_converted_in_less_than_3_gb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blank(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    for name, value in {"D": 1024, "WIDE": 4096, "LAYERS": 19, "draw": blank}.items():
        monkeypatch.setattr(reference_folders, name, value)
    save_release("v1-speech", tmp_path)
    peak, code = peak_memory(WORDS, tmp_path)
    read, written = size(tmp_path / "base", "*.bin"), size(tmp_path / "out", "*.safetensors")
    shutil.rmtree(tmp_path)
    assert code == 0 and read > 4 * GB and written > 2 * GB
    assert 0.1 * GB < peak < 3 * GB
