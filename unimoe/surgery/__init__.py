"""Operations that change a trained model, each with a certificate of what it kept."""

from .assemble import assemble
from .audit import Audit, audit, audit_change
from .certificate import Certificate
from .densify import densify
from .export_hf import export_hf
from .extend import extend
from .recipe import Recipe
from .upcycle import upcycle

__all__ = [
    "Audit",
    "Certificate",
    "Recipe",
    "assemble",
    "audit",
    "audit_change",
    "densify",
    "export_hf",
    "extend",
    "upcycle",
]
