"""The memory that a stage tells and the memory that it sees: one unit, one meaning."""

import ctypes
import io
import math
import re

import pytest
import torch
from launch import ROOT
from rich.console import Console
from test_real_parts import MODELS

from benchmarks.memory_told import CONFIGURATIONS, compare, prepare
from training.monitor import memory
from training.monitor.memory import MemoryWatch, in_use, resident
from training.monitor.metrics_file import read_metrics
from training.stage.run import run_stage

MB = 1_000_000
CPU = torch.device("cpu")


def test_a_peak_between_two_looks_of_others_is_seen():
    with MemoryWatch(CPU) as watch:
        before = in_use()
        big = torch.ones(100 * MB)  # 400 MB
        big += 1
        threading_turn(big)
        del big
        assert watch.peak - before == pytest.approx(400 * MB, rel=0.1)
        assert in_use() - before < 40 * MB


def threading_turn(tensor):
    """Let the watch look while a tensor is there: torch gives the interpreter free."""
    for _ in range(5):
        tensor.mul_(1)


def test_a_watch_that_is_entered_again_begins_anew():
    watch = MemoryWatch(CPU)
    with watch:
        big = torch.ones(100 * MB)
        high = watch.peak
        del big
    with watch:
        assert watch.peak < high - 300 * MB


@pytest.mark.skipif(memory._mallinfo() is None, reason="glibc tells what is free, other libraries do not")
def test_blocks_that_were_freed_and_kept_are_reserved_and_not_in_use():
    """Every other of many blocks is freed: none of them can go back to the system."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    size, blocks = 100_000, []
    for _ in range(2000):
        blocks.append(libc.malloc(size))
        ctypes.memset(blocks[-1], 1, size)
    used, held = in_use(), resident()
    for block in blocks[::2]:
        libc.free(block)
    assert used - in_use() == pytest.approx(1000 * size, rel=0.1)
    assert held - resident() < 100 * size
    for block in blocks[1::2]:
        libc.free(block)


def test_a_stage_ends_with_what_was_told_and_what_was_in_use(make_stage):
    console = Console(file=io.StringIO(), width=300)
    config = make_stage(report={"memory": True}, trainer={"max_steps": 2})
    output = run_stage(config, console=console)
    text = console.file.getvalue()
    told, seen, held = map(
        float,
        re.search(r"memory of a process: ([\d.]+) GB told, ([\d.]+) GB in use at most; ([\d.]+) GB", text).groups(),
    )
    *lines, last = read_metrics(output / "metrics.jsonl")
    assert [last[f"memory{name}_gb"] for name in ("_told", "", "_reserved")] == pytest.approx(
        [told, seen, held], abs=0.01
    )
    assert f"memory of a process: about {told:.2f} GB, of which Python" in text
    assert told == pytest.approx(seen, rel=0.1) and seen <= held
    assert all(line["memory_gb"] <= last["memory_gb"] for line in lines if "loss" in line)


def test_a_stage_that_was_not_asked_tells_no_memory(make_stage):
    output = run_stage(make_stage(), console=Console(file=io.StringIO()))
    assert not any("memory_told_gb" in line for line in read_metrics(output / "metrics.jsonl"))


@pytest.mark.slow
def test_memory_told_and_memory_in_use_agree_within_a_tenth(tmp_path):
    for result in compare(prepare(tmp_path, (ROOT / MODELS).resolve()), list(CONFIGURATIONS)):
        print(result)
        assert math.isclose(result["ratio"], 1, abs_tol=0.1), result
