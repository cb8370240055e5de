"""Turns released weights of Uni-MoE into ordinary model folders, every tensor accounted for."""

from .write import Conversion, read_release

__all__ = ["Conversion", "read_release"]
