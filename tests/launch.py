"""Starting programs as users do, in one process or several, and killing them.

To start Python and import torch, transformers and DeepSpeed takes longer than most trainings of tests. `Launch`
therefore forks its processes from one that has imported them (a fork server of `multiprocessing`), with the
environment that torchrun gives them. A few tests start what users type (`command`).
"""

import gc
import json
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from unittest.mock import patch

import psutil

from training.checkpoint.state import MANIFEST
from training.config.stage import StageConfig

ROOT = Path(__file__).parents[1]
TRAINING = ("-m", "training")
STREAMS = {1: "stdout", 2: "stderr"}
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "deepspeed.runtime.zero.muon.muon_optimizer",
        "deepspeed.runtime.zero.stage3",
        "matplotlib.pyplot",
        "peft",
        "torch.utils.tensorboard",
        "torchdata.stateful_dataloader",
        "evaluation.__main__",
        "training.__main__",
        "training.stage.run",
        "transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer",
        "transformers.models.resnet.modeling_resnet",
        "transformers.models.whisper.modeling_whisper",
    ]
)


def environment() -> dict[str, str]:
    return {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


class Launch:
    """Processes that run `python *words`.

    Args:
        words: A module (`-m name`) or a file, and its arguments.
        processes: How many, in one group of torch.distributed. 0: one, in no group.
    """

    def __init__(self, *words: str, processes: int = 0) -> None:
        self._said = tempfile.TemporaryDirectory()
        for name in STREAMS.values():
            (Path(self._said.name) / name).touch()
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(processes)}
        ranks = [
            {**group, "LOCAL_WORLD_SIZE": str(processes), "RANK": str(n), "LOCAL_RANK": str(n)}
            for n in range(processes)
        ]
        self._processes = [
            FORKS.Process(target=_be_program, args=(words, environment() | rank, self._said.name))
            for rank in ranks or [{}]
        ]
        with patch.dict(os.environ, environment()):  # of the server, which begins with the first
            for process in self._processes:
                process.start()

    def wait(self, timeout: float = 280) -> int:
        """Wait until all have ended; where one fails, the others are ended. Return the worst exit code."""
        end, running = time.monotonic() + timeout, {process.sentinel: process for process in self._processes}
        while running:
            ended = wait(list(running), max(0, end - time.monotonic()))
            for sentinel in ended:
                running.pop(sentinel).join()
            if not ended or any(process.exitcode for process in self._processes):
                self.kill()
                break
        return max(abs(process.exitcode or 0) for process in self._processes)

    def kill(self) -> None:
        """Kill all of them with the workers that they have started."""
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                for worker in psutil.Process(process.pid).children(recursive=True):
                    worker.kill()
            process.kill()
            process.join()

    @property
    def is_running(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    @property
    def stdout(self) -> str:
        return (Path(self._said.name) / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (Path(self._said.name) / "stderr").read_text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _be_program(words: tuple[str, ...], environment: dict[str, str], folder: str) -> None:
    gc.freeze()  # what was imported is no garbage
    multiprocessing.set_start_method("fork", force=True)  # as Python on Linux starts workers that load data
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, name in STREAMS.items():
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_APPEND), number)
    if words[0] == "-m":
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")


def run(*words: str, processes: int = 0) -> Launch:
    """Run a program to its good end."""
    done = Launch(*words, processes=processes)
    assert done.wait() == 0, done.stdout[-1000:] + done.stderr[-6000:]
    return done


def train(
    stage: StageConfig, file: Path, *options: str, processes: int = 0, program: tuple[str, ...] = TRAINING
) -> Launch:
    """Run a stage, whose YAML goes to `file`, to its end."""
    return run(*program, _write(stage, file), *options, processes=processes)


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
    running = Launch(*program, _write(stage, file), processes=processes)
    written = Path(stage.output) / f"checkpoint-{at}" / MANIFEST
    while not written.is_file() or logged_step(stage) < step:
        assert running.is_running, f"the training ended before step {at}: {running.stderr[-3000:]}"
        time.sleep(0.002)
    running.kill()
    assert not (Path(stage.output) / "history.json").exists(), "the training ended before it could be killed"


def command(stage: StageConfig, file: Path, *, processes: int = 0) -> list[str]:
    """What a user types to run a stage, whose YAML goes to `file`; 0 processes: without torchrun."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes else []
    return [sys.executable, *torchrun, *TRAINING, _write(stage, file)]


def _write(stage: StageConfig, file: Path) -> str:
    file.write_text(json.dumps(stage.model_dump()))  # JSON is YAML
    return str(file)


def logged_step(stage: StageConfig) -> int:
    """The last step whose loss is in the metrics."""
    lines = (Path(stage.output) / "metrics.jsonl").read_text().splitlines()
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)
