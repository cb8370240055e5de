"""Memory of a conversion: weights are written one by one, however large a shard is."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import reference_folders
import torch
from reference_folders import save_release

GB = 1e9
PROGRAM = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); from unimoe.cli import app; app()"
WORDS = ["convert", "tuned", "out", "--base", "base", "--vision", "clip", "--speech", "whisper", "--dtype", "bfloat16"]


def size(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def peak_memory(command: list[str], folder: Path) -> tuple[int, int]:
    """Largest memory of a process that no file holds, in bytes, and how it ended."""
    peak = 0
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            held = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            peak = max(peak, int(held[1]) * 1024 if held else 0)
            time.sleep(0.02)
    return peak, process.returncode


@pytest.mark.slow
def test_4_gb_are_converted_in_less_than_3_gb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blank(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    for name, value in {"D": 1024, "WIDE": 4096, "LAYERS": 19, "draw": blank}.items():
        monkeypatch.setattr(reference_folders, name, value)
    save_release("v1-speech", tmp_path)
    peak, code = peak_memory([sys.executable, "-c", PROGRAM, *WORDS], tmp_path)
    read, written = size(tmp_path / "base", "*.bin"), size(tmp_path / "out", "*.safetensors")
    shutil.rmtree(tmp_path)
    assert code == 0 and read > 4 * GB and written > 2 * GB
    assert 0.1 * GB < peak < 3 * GB
