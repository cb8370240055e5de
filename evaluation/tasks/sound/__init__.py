"""Benchmarks of speech and sounds."""

from ..benchmark import Benchmark
from . import audiocaps, clotho, librispeech, mmau, uni_moe

BENCHMARKS: tuple[Benchmark, ...] = (
    *librispeech.BENCHMARKS,
    *uni_moe.BENCHMARKS,
    *clotho.BENCHMARKS,
    *audiocaps.BENCHMARKS,
    *mmau.BENCHMARKS,
)
"""All of them."""

__all__ = ["BENCHMARKS"]
