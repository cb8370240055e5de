"""Operations on model folders: look at the model, say what would be lost, write the new folder, measure what was."""

import gc
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.loading import load_mixture
from ..errors import UniMoEError
from ..files.folder import setting_files
from ..files.writing import new_folder, require_new
from ..modeling.parts import part_of
from .audit import Audit, audit_change
from .calibration import Calibration, read_calibration
from .certificate import Certificate
from .damage import Answers, Difference

Losses = Mapping[int | str, Mapping[str, Mapping[str, float]]]
"""Layer, or `all` -> modality key, or `all` -> what is lost -> how much."""


@dataclass(frozen=True)
class Rows:
    """Which rows an operation looks at; see `read_calibration`.

    Args:
        paths: JSON Lines of `messages`; one file or several.
        limit: How many.
        batch_size: Rows of a batch.
        modalities: Keys of those that are meant. None: all that the model takes.
        seed: Of the choice.
    """

    paths: str | Path | Sequence[str | Path]
    limit: int | None = 256
    batch_size: int = 8
    modalities: Collection[str] | None = None
    seed: int = 0

    def read(self, model: Any, processor: Any) -> Calibration:
        """Choose them for a model."""
        return read_calibration(
            self.paths,
            model,
            processor,
            limit=self.limit,
            batch_size=self.batch_size,
            modalities=self.modalities,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Draft:
    """An operation that was decided and not yet done.

    Args:
        operation: Its name.
        losses: What would be lost, by layer and modality.
        write: Writes weights and configuration of the new model into a folder.
        parts: Parts of the model that it may touch (see `audit_change`); what else differs is a defect. None: the new
            folder has other names, and the operation has looked itself.
        details: What was decided, JSON-serialisable, for the certificate.
        against: What the new model is compared with. None: the model that was changed.
        answers: Of that.
    """

    operation: str
    losses: Losses
    write: Callable[[Path], object]
    parts: Collection[str] | None = ("experts", "router")
    details: dict[str, Any] = field(default_factory=dict)
    against: str | Path | None = None
    answers: Answers | None = None


Decide = Callable[[Any, Calibration], Draft]
"""Looks at a model and rows and decides what is to become of it."""


def change_folder(
    folder: str | Path, out: str | Path, decide: Decide, rows: Rows, *, device: str = "cpu", dry_run: bool = False
) -> tuple[Draft, Certificate | None]:
    """Change the model of a folder into another folder, with a certificate that was measured on what was written.

    Args:
        folder: Of a model of this package, or of transformers with stacked experts.
        out: Of the new one, which is not there yet; what fails leaves none.
        decide: The operation.
        rows: That it looks at, and on which both models are compared.
        device: Where both models run.
        dry_run: Stop at what would be lost.

    Returns:
        What was decided, and without `dry_run` the certificate.

    Raises:
        UniMoEError: If a folder or a row cannot be read, or the operation is refused.
    """
    if not dry_run:
        require_new(out)
    model, processor = load_mixture(folder)
    calibration = rows.read(model, processor)
    draft = decide(model.to(device), calibration)
    if dry_run:
        return draft, None
    answers = draft.answers or Answers.of(model, calibration)
    del model
    gc.collect()
    with new_folder(out) as work:
        draft.write(work)
        copy_settings(folder, work)
        changed, _ = load_mixture(work)
        tied = {name for pair in changed.all_tied_weights_keys.items() for name in pair}
        touched = {} if draft.parts is None else touched_parts(draft, audit_change(folder, work), tied)
        found = answers.compare(changed.to(device))
        details = {**draft.details, "touched": touched}
        certificate = certify(draft.operation, draft.against or folder, found, calibration, details)
        certificate.save(work)
    return draft, certificate


def save_model(model: Any, certificate: Certificate, source: str | Path, out: str | Path) -> None:
    """Save a changed model, its certificate, and what stood beside the model that it was made of.

    Args:
        model: The new one.
        certificate: Of it.
        source: Folder of the old one.
        out: Folder, which is not there yet; what fails leaves none.

    Raises:
        UniMoEError: If there is such a folder.
    """
    with new_folder(out) as work:
        model.save_pretrained(work)
        copy_settings(source, work)
        certificate.save(work)


def copy_settings(folder: str | Path, out: Path) -> None:
    """Copy what stands beside a model and its configuration: processor, tokenizer, settings of generation.

    Args:
        folder: Of the model.
        out: Of the new one.
    """
    for path in setting_files(Path(folder)):
        shutil.copyfile(path, out / path.name)


def touched_parts(draft: Draft, found: Audit, tied: Collection[str] = ()) -> dict[str, float]:
    """Return the share of each part that an operation touched, without those that it left alone.

    Args:
        draft: What was done.
        found: How the folders differ.
        tied: Names of weights that are others' too: one name of them in a file is enough.

    Raises:
        UniMoEError: If it touched a part that it must leave alone.
    """
    shares = {part: touched / max(count, 1) for part, (count, touched, _) in found.by_part().items() if touched}
    others = {*shares, *map(part_of, {*found.gone, *found.new}.difference(tied))} - set(draft.parts or ())
    if others:
        problem = f"{', '.join(sorted(others))} changed, and may not."
        raise UniMoEError(draft.operation, problem, "This is a defect of the package; please report it.")
    return shares


def certify(
    operation: str, source: str | Path, found: Difference, rows: Calibration, details: Mapping[str, Any]
) -> Certificate:
    """State what was measured.

    Args:
        operation: What was done.
        source: What the new model is compared with.
        found: How it differs.
        rows: On which.
        details: What else was decided, or found.
    """
    claim = f"On {len(rows.rows)} rows of {rows.names}, the model gives the logits of {source}"
    return Certificate(
        operation=operation,
        kind="exact" if found.is_exact else "measured",
        claim=f"{claim}." if found.is_exact else f"{claim}, up to the difference.",
        difference=found.largest,
        details={
            "source": str(source),
            **details,
            "damage": {key: damage._asdict() for key, damage in found.by_modality.items()},
            "rows": {
                "files": [file.path for file in rows.files],
                "rows": [list(row) for row in rows.rows],
                "batch_size": rows.batch_size,
            },
        },
    )


__all__ = [
    "Decide",
    "Draft",
    "Losses",
    "Rows",
    "certify",
    "change_folder",
    "copy_settings",
    "save_model",
    "touched_parts",
]
