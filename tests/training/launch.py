"""Starting `python -m training` as users do: in one process or several, and killing it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from training.checkpoint.state import MANIFEST
from training.config.stage import StageConfig

ROOT = Path(__file__).parents[2]


TRAINING = ("-m", "training")


def command(
    stage: StageConfig, file: Path, *options: str, processes: int = 0, program: tuple[str, ...] = TRAINING
) -> list[str]:
    """The command line for a stage, whose YAML goes to `file`; 0 processes: without a launcher."""
    file.write_text(json.dumps(stage.model_dump()))  # JSON is YAML
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes else []
    return [sys.executable, *launcher, *program, str(file), *options]


def environment() -> dict[str, str]:
    return {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def train(
    stage: StageConfig, file: Path, *options: str, processes: int = 0, program: tuple[str, ...] = TRAINING
) -> subprocess.CompletedProcess[str]:
    """Run a stage to its end."""
    done = subprocess.run(
        command(stage, file, *options, processes=processes, program=program),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done


def train_and_kill(
    stage: StageConfig,
    file: Path,
    *,
    at: int,
    step: int = 0,
    processes: int = 0,
    program: tuple[str, ...] = TRAINING,
) -> None:
    """Run a stage, and kill all its processes once the checkpoint of step `at` is written and `step` is logged."""
    with subprocess.Popen(
        command(stage, file, processes=processes, program=program),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        written = Path(stage.output) / f"checkpoint-{at}" / MANIFEST
        while not written.is_file() or logged_step(stage) < step:
            assert running.poll() is None, f"the training ended with {running.returncode} before step {at}"
            time.sleep(0.002)
        for process in [*psutil.Process(running.pid).children(recursive=True), running]:
            process.kill()
    assert not (Path(stage.output) / "history.json").exists(), "the training ended before it could be killed"


def logged_step(stage: StageConfig) -> int:
    """The last step whose loss is in the metrics."""
    lines = (Path(stage.output) / "metrics.jsonl").read_text().splitlines()
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)
