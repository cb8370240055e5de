"""How commands that change a model end: in tables of what is lost and what was measured, or one line of why not."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..errors.terminal import fail
from .common import console, cost, say

Out = Annotated[Path, typer.Argument(help="Folder for the new model.")]
Outcome = tuple[Any, Any]
"""What was decided, and the certificate if it was done."""


def carry_out(change: Callable[[], Outcome], out: Path) -> None:
    """Do it, or say in one line why not and exit with code 2; print what is lost, and what was measured.

    Args:
        change: Returns what was decided, and the certificate if it was done.
        out: Folder of the new model.
    """
    from transformers.utils import logging

    from ..checkpoint.loading import reason

    logging.disable_progress_bar()
    started = time.perf_counter()
    try:
        draft, certificate = change()
    except (OSError, ValueError) as error:
        fail(reason(error))
    console.print(losses_table(draft))
    if certificate is None:
        return
    if "damage" in certificate.details:
        console.print(damage_table(certificate))
    say(outcome_line(certificate))
    say(f"written to {out} in {cost(started)}")


def outcome_line(certificate: Any) -> str:
    """Sum up what a certificate measured."""
    return f"{certificate.kind}: {certificate.claim} Largest difference: {certificate.difference:.1e}."


def losses_table(draft: Any) -> Table:
    """Lay out what would be lost: a row for each layer and modality, a column for each measure."""
    measures = list(dict.fromkeys(what for own in draft.losses.values() for lost in own.values() for what in lost))
    table = Table("layer", "modality", *measures, title=f"{draft.operation}, by layer and modality")
    for layer, own in draft.losses.items():
        for key, lost in own.items():
            table.add_row(str(layer), key, *(number(what, lost.get(what)) for what in measures))
    return table


def number(what: str, value: float | None) -> str:
    """Write what was measured: nats and differences as they are, all else is a share."""
    return "" if value is None else f"{value:.3g}" if what in ("divergence", "difference", "loss") else f"{value:.1%}"


def damage_table(certificate: Any) -> Table:
    """Lay out what was measured on the calibration rows, a row for each modality."""
    table = Table("rows with", "rows", "tokens", "loss before", "loss after", "divergence", "other top token")
    for key, damage in certificate.details["damage"].items():
        losses = (f"{damage[name]:.4f}" for name in ("loss_before", "loss_after", "divergence"))
        table.add_row(key, str(damage["rows"]), str(damage["tokens"]), *losses, f"{damage['changed_top']:.1%}")
    return table
