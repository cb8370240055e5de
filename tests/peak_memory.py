"""Commands of the package in a process of their own, whose memory is watched."""

import re
import subprocess
import sys
import time
from pathlib import Path

GB = 1e9
PROGRAM = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); from unimoe.cli import app; app()"


def size(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def peak_memory(words: list[str], folder: Path) -> tuple[int, int]:
    """Largest memory of a command of `unimoe` that no file holds, in bytes, and how it ended."""
    peak, command = 0, [sys.executable, "-c", PROGRAM, *words]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            held = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            peak = max(peak, int(held[1]) * 1024 if held else 0)
            time.sleep(0.02)
    return peak, process.returncode
