"""Benchmarks about pictures, a file for each family."""

from . import aokvqa, choice, mmmu, vet, vqa, yes_no

BENCHMARKS = (
    *vqa.BENCHMARKS,
    *aokvqa.BENCHMARKS,
    *yes_no.BENCHMARKS,
    *choice.BENCHMARKS,
    *mmmu.BENCHMARKS,
    *vet.BENCHMARKS,
)
"""In the order of docs/benchmarks.md."""


__all__ = ["BENCHMARKS"]
