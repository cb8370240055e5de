"""Operations that change a trained model, each with a certificate of what it kept."""

from .assemble import assemble
from .certificate import Certificate
from .upcycle import upcycle

__all__ = ["Certificate", "assemble", "upcycle"]
