"""Commands for inference: a model for tools of others."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from ..errors import UniMoEError
from ..errors.terminal import fail
from .common import app, console, cost, summary


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

    from ..surgery.export_hf import export_folder

    logging.disable_progress_bar()
    started = time.perf_counter()
    chosen = dtype if dtype == "auto" else getattr(torch, dtype)
    options = {"language_only": language_only, "round_routers": round_routers}
    try:
        certificate = export_folder(folder, out, dtype=chosen, **options)
    except UniMoEError as error:
        fail(error)
    for what in ("left_out", "added"):
        if names := certificate.details[what]:
            console.print(escape(f"{what.replace('_', ' ')}: {', '.join(names)}"), soft_wrap=True, highlight=False)
    console.print(summary(certificate, "float32"), soft_wrap=True)
    console.print(f"written to {out} in {cost(started)}", highlight=False)
