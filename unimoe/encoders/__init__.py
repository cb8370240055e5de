"""Pretrained towers that turn pictures, sounds and speech into features."""

from .encoder import Encoder, measure_tower

__all__ = ["Encoder", "measure_tower"]
