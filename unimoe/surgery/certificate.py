"""What an operation on a trained model guarantees, as a file beside the model."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

CertificateKind = Literal["exact", "bounded", "measured"]
FILE_NAME = "certificate.json"


@dataclass(frozen=True)
class Certificate:
    """A claim about the result of an operation and the number that supports it.

    Args:
        operation: Name of the operation.
        kind: `exact`: the claim holds to rounding, `difference` is the largest seen. `bounded`: `difference` is an
            upper bound. `measured`: `difference` was measured on the data that `details` names.
        claim: One sentence: what equals what.
        difference: Largest absolute difference, relative to the largest absolute value compared.
        details: Sources and settings, JSON-serialisable.
    """

    operation: str
    kind: CertificateKind
    claim: str
    difference: float
    details: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Write `certificate.json` into a model folder and return its path."""
        path = Path(folder) / FILE_NAME
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "Certificate":
        """Read the certificate of a model folder.

        Raises:
            FileNotFoundError: If the folder has none.
        """
        return cls(**json.loads((Path(folder) / FILE_NAME).read_text(encoding="utf-8")))
