"""Benchmarks of video, and of pictures and video with sound."""

from ..benchmark import Benchmark
from . import activitynet, msvd, mvbench, omnibench, videomme, worldsense

BENCHMARKS: tuple[Benchmark, ...] = (
    *msvd.BENCHMARKS,
    *activitynet.BENCHMARKS,
    *mvbench.BENCHMARKS,
    *videomme.BENCHMARKS,
    *omnibench.BENCHMARKS,
    *worldsense.BENCHMARKS,
)
"""All of them."""

__all__ = ["BENCHMARKS"]
