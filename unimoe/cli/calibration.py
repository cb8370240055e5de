"""Options of commands that look at a model on calibration rows."""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Source = Annotated[Path, typer.Argument(help="Folder of a mixture, of this package or of transformers.")]
Score = Annotated[
    Literal["reap", "frequency", "activation_norm", "router_weighted", "max_share"],
    typer.Option(help="What the experts are scored by."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be lost, by layer and modality, only.")]

_HELP = {
    "data": "Calibration rows: JSON Lines of `messages`; together with all modalities of the model.",
    "modalities": "The modalities that are meant, such as text,image. Default: all of the model.",
    "rows": "Calibration rows that are used.",
    "batch_size": "Calibration rows at a time.",
    "seed": "Of the choice of rows.",
}
_OPTIONS = {
    "data": (Annotated[list[Path], typer.Option(help=_HELP["data"])], Parameter.empty),
    "modalities": (Annotated[str | None, typer.Option(help=_HELP["modalities"])], None),
    "rows": (Annotated[int, typer.Option(min=1, help=_HELP["rows"])], 256),
    "batch_size": (Annotated[int, typer.Option(min=1, help=_HELP["batch_size"])], 8),
    "seed": (Annotated[int, typer.Option(help=_HELP["seed"])], 0),
}


def on_rows(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose calibration rows; it gets them as one argument, `rows`.

    Args:
        command: With an argument `rows`, of the type `unimoe.surgery.folders.Rows`.
    """

    @wraps(command)
    def run(*, data: Any, modalities: str | None, rows: int, batch_size: int, seed: int, **others: Any) -> None:
        from ..surgery.folders import Rows

        meant = modalities.split(",") if modalities else None
        command(rows=Rows(data, rows, batch_size, meant, seed), **others)

    own = [parameter for name, parameter in signature(command).parameters.items() if name != "rows"]
    given = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]
    every = [*(parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own), *given]
    run.__signature__ = signature(command).replace(parameters=every)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in every} | {"return": None}
    return run
