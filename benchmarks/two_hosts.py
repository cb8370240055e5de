"""Two hosts for real, on one Linux machine: `sudo .venv/bin/python -m benchmarks.two_hosts OUT`.

Each host is a network namespace; a virtual link joins them, and nothing else does. A stage with experts shared across
the hosts runs on both (rendezvous and all traffic over the link) and on one host with two processes; losses must be
equal. Then the link is cut in mid-run: both sides must end with an error in time, and `--resume` go on from there.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

HOSTS = {"unimoe-a": "10.99.0.1", "unimoe-b": "10.99.0.2"}
LINK = "veth0"
PORT = 29555
STEPS, CUT_AFTER, TIMEOUT = 20, 8, 30
console = Console(markup=False, highlight=False, soft_wrap=True)


def ip(*words: str, host: str | None = None, check: bool = True) -> None:
    """Run `ip`, in a namespace if one is named."""
    inside = ["ip", "netns", "exec", host] if host else []
    subprocess.run([*inside, "ip", *words], check=check, capture_output=not check)


@contextmanager
def two_hosts() -> Iterator[None]:
    """Two namespaces with a link between them."""
    first, second = HOSTS
    for host in HOSTS:
        ip("netns", "del", host, check=False)
    for host in HOSTS:
        ip("netns", "add", host)
    ip("link", "add", LINK, "netns", first, "type", "veth", "peer", "name", LINK, "netns", second)
    for host, address in HOSTS.items():
        ip("addr", "add", f"{address}/24", "dev", LINK, host=host)
        ip("link", "set", LINK, "up", host=host)
        ip("link", "set", "lo", "up", host=host)
    try:
        yield
    finally:
        for host in HOSTS:
            ip("netns", "del", host, check=False)


def write_stage(out: Path) -> Path:
    """Return the quickstart's data and models, and a stage that shares four experts between two processes."""
    subprocess.run([sys.executable, "-m", "training.quickstart", str(out)], check=True, stdout=subprocess.DEVNULL)
    start = str(out / "start-dense")
    stage = {
        "start": {"assemble": {"base": start, "base_experts": 2, "experts": {"image": start, "speech": start}}},
        "train": {"parts": ["router", "experts", "connectors"]},
        "data": {"mixture": [str(path) for path in sorted((out / "data").glob("*_train.jsonl"))]},
        "parallel": {"zero": 2, "expert_parallel_size": 2},
        "trainer": {
            "max_steps": STEPS,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "save_steps": 5,
            "learning_rate": 1e-3,
            "ddp_timeout": TIMEOUT,
            "use_cpu": True,
        },
        "output": str(out / "one-host"),
    }
    file = out / "stage.yaml"
    file.write_text(yaml.safe_dump(stage))
    return file


def launch(file: Path, output: Path, *options: str, host: str | None = None) -> subprocess.Popen[bytes]:
    """Start the stage on one of two hosts, or with two processes on this machine."""
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    nodes = ["--standalone", "--nproc_per_node", "2"]
    inside: list[str] = []
    if host is not None:
        environment |= {"GLOO_SOCKET_IFNAME": LINK}
        number = list(HOSTS).index(host)
        address = HOSTS["unimoe-a"]
        nodes = ["--nnodes", "2", "--nproc_per_node", "1", "--node_rank", str(number)]
        nodes += ["--master_addr", address, "--master_port", str(PORT)]
        inside = ["ip", "netns", "exec", host]
    command = [*inside, sys.executable, "-m", "torch.distributed.run", *nodes, "-m", "training", str(file)]
    log = (output.parent / f"{output.name}{''.join(options)}-{host or 'local'}.log").open("wb")
    return subprocess.Popen(
        [*command, *options, f"output={output}"], env=environment, stdout=log, stderr=log, start_new_session=True
    )


def finish(*running: subprocess.Popen[bytes], within: float) -> list[int]:
    """Wait for processes and return how each ended.

    Raises:
        TimeoutError: If one is not done in time; it is killed.
    """
    end = time.monotonic() + within
    try:
        return [process.wait(max(end - time.monotonic(), 0.1)) for process in running]
    except subprocess.TimeoutExpired:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        raise TimeoutError(f"not done within {within:.0f} s") from None


def losses(output: Path) -> dict[int, float]:
    """Loss of each step that was logged."""
    lines = (output / "metrics.jsonl").read_text().splitlines() if (output / "metrics.jsonl").is_file() else []
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return {line["step"]: line["loss"] for line in found if "loss" in line}


def largest_difference(one: dict[int, float], other: dict[int, float]) -> float:
    """Of the losses of all steps, relative."""
    assert one.keys() == other.keys() and len(one) == STEPS, (sorted(one), sorted(other))
    return max(abs(one[step] - other[step]) / abs(one[step]) for step in one)


def last_error(log: Path) -> str:
    """Return the line of a log by which `training` ends, or else the last one."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in lines if line.startswith("Error: ")), lines[-1])


def main(out: Annotated[Path, typer.Argument(help="Folder for data, models and outputs.")]) -> None:
    """Run all of it; exit code 1 if something does not hold."""
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise typer.BadParameter(f"{out} is not empty.")
    file = write_stage(out)
    one, two, cut = out / "one-host", out / "two-hosts", out / "link-cut"
    assert finish(launch(file, one), within=600) == [0], last_error(out / "one-host-local.log")
    expected = losses(one)
    with two_hosts():
        assert finish(*(launch(file, two, host=host) for host in HOSTS), within=600) == [0, 0]
        console.print(f"{STEPS} steps on two hosts: losses differ by {largest_difference(expected, losses(two)):.1e}")
        running = [launch(file, cut, host=host) for host in HOSTS]
        while max(losses(cut), default=0) < CUT_AFTER:
            assert all(process.poll() is None for process in running), "ended before the link was cut"
            time.sleep(0.05)
        began = time.monotonic()
        ip("link", "set", LINK, "down", host="unimoe-b")
        codes = finish(*running, within=4 * TIMEOUT)
        for host, code in zip(HOSTS, codes, strict=True):
            console.print(f"link cut: {host} ended with {code}: {last_error(out / f'link-cut-{host}.log')}")
            assert code != 0
        console.print(f"both had ended {time.monotonic() - began:.0f} s later, with ddp_timeout {TIMEOUT}")
        ip("link", "set", LINK, "up", host="unimoe-b")
        assert finish(*(launch(file, cut, "--resume", host=host) for host in HOSTS), within=600) == [0, 0]
        difference = largest_difference(expected, losses(cut))
        console.print(f"resumed on two hosts: losses differ by {difference:.1e}")


if __name__ == "__main__":
    typer.run(main)
