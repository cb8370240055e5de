"""Runs `python -m training` and notes the most memory that it had resident; and what its imports alone take.

`python -m benchmarks.memory_probe OUT ...` is `python -m training ...` that writes OUT.RANK.json at its end;
`python -m benchmarks.memory_probe --imports OUT.RANK.json` imports the same modules, and adds what they take.
"""

import contextlib
import importlib
import io
import json
import os
import runpy
import sys
from pathlib import Path


def resident(field: str) -> int:
    """Bytes of this process that are resident: `VmRSS` now, `VmHWM` at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def run(out: str, arguments: list[str]) -> None:
    """Run the training, and write what it had resident at most, and what it imported."""
    sys.argv = ["training", *arguments]
    try:
        runpy.run_module("training", run_name="__main__", alter_sys=True)
    finally:
        noted = {"peak": resident("VmHWM"), "modules": sorted(sys.modules)}
        Path(f"{out}.{os.environ.get('RANK', '0')}.json").write_text(json.dumps(noted))


def measure_imports(file: Path) -> None:
    """Import what a training imported, and write what is resident then."""
    noted = json.loads(file.read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        for name in noted["modules"]:
            if "__main__" not in name and name != __spec__.name:
                with contextlib.suppress(Exception):  # some modules are made, not found
                    importlib.import_module(name)
    file.write_text(json.dumps({**noted, "imports": resident("VmRSS")}))


if __name__ == "__main__":
    if sys.argv[1] == "--imports":
        measure_imports(Path(sys.argv[2]))
    else:
        run(sys.argv[1], sys.argv[2:])
