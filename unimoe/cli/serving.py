"""Commands for inference: a model for tools of others, and what skipping experts would do."""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from ..errors import UniMoEError
from ..errors.terminal import fail
from .calibration import Source, on_rows
from .common import app, console, cost, say, summary
from .outcome import damage_table, losses_table, outcome_line
from .surgery import pairs


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder of a model of this package.")],
    out: Annotated[Path, typer.Argument(help="Folder for the model of a class of transformers.")],
    language_only: Annotated[
        bool, typer.Option("--language-only", help="Leave out encoders and connectors, of a model that has some.")
    ] = False,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Of the weights. auto: as saved.")
    ] = "auto",
    round_routers: Annotated[
        bool, typer.Option("--round-routers", help="Routers may be rounded to the dtype; what it changes is printed.")
    ] = False,
) -> None:
    """Turn a model into one of transformers' own classes, for vLLM, GGUF and tools that know no other."""
    import torch
    from transformers.utils import logging

    from ..checkpoint.loading import reason
    from ..surgery.export_hf import export_folder

    logging.disable_progress_bar()
    started = time.perf_counter()
    chosen = dtype if dtype == "auto" else getattr(torch, dtype)
    options = {"language_only": language_only, "round_routers": round_routers}
    try:
        certificate = export_folder(folder, out, dtype=chosen, **options)
    except (OSError, ValueError) as error:
        fail(reason(error))
    for what in ("left_out", "added"):
        if names := certificate.details[what]:
            console.print(escape(f"{what.replace('_', ' ')}: {', '.join(names)}"), soft_wrap=True, highlight=False)
    say(summary(certificate, "float32"))
    say(f"written to {out} in {cost(started)}")


@app.command()
@on_rows
def skip(
    folder: Source,
    rows: Any,
    threshold: Annotated[
        list[str],
        typer.Option(help="MODALITY=TAU: of its tokens, skip experts with a weight below TAU of the largest."),
    ],
    renormalise: Annotated[
        bool, typer.Option("--renormalise", help="Weights that are left are scaled to the sum of all.")
    ] = False,
) -> None:
    """Tell what skipping experts of small weight would save and change, by modality; a setting of inference."""
    from transformers.utils import logging

    from ..checkpoint.loading import reason
    from ..surgery.skip import measure_skipping

    logging.disable_progress_bar()
    try:
        thresholds = {key: share(value, f"--threshold {key}") for key, value in pairs(threshold, "=", "--threshold")}
        rest: Literal["as_is", "renormalised"] = "renormalised" if renormalise else "as_is"
        skipped, certificate = measure_skipping(folder, thresholds, rows, rest=rest)
    except (OSError, ValueError) as error:
        fail(reason(error))
    console.print(losses_table(skipped))
    console.print(damage_table(certificate))
    say(outcome_line(certificate))


def share(text: str, option: str) -> float:
    """Read a number.

    Raises:
        UniMoEError: If it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise UniMoEError(option, f"{text!r} is no number.", "Write one from 0 to 1, such as 0.3.") from None
