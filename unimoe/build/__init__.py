"""Composes a model of pretrained parts: a language model, encoders, and new connectors."""

from .model import build_language_model, build_model, describe_model

__all__ = ["build_language_model", "build_model", "describe_model"]
