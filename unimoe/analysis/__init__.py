"""What a trained model does inside: routing recorded and replayed, invariances verified."""

from .replay import Routing, record, replay
from .verify import Check, verify

__all__ = ["Check", "Routing", "record", "replay", "verify"]
