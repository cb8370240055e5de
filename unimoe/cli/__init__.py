"""`unimoe`: build, convert or change a model, look at its folder, verify or audit it, talk to it."""

from . import commands, serving, surgery
from .common import app

__all__ = ["app", "commands", "serving", "surgery"]
