"""`unimoe`: build, convert or change a model, look at its folder, verify or audit it, talk to it."""

from . import commands, growth, serving, surgery
from .common import app

__all__ = ["app", "commands", "growth", "serving", "surgery"]
