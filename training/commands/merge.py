"""`python -m training merge FOLDER OUT`: the output of a stage with `lora.merge: false` becomes one ordinary model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unimoe.errors import ConfigError
from unimoe.errors.terminal import fail, plain


def merge(
    folder: Annotated[Path, typer.Argument(help="Model that an adapter belongs on: a stage's output.")],
    out: Annotated[Path, typer.Argument(help="Folder for the merged model and its processor.")],
    adapter: Annotated[
        Path | None, typer.Option(help="The adapter, if it is not the folder `adapter` in the model's.")
    ] = None,
) -> None:
    """Add an adapter to the model that it was trained on, and save both as one model."""
    from unimoe.checkpoint.loading import load_model, load_processor

    from ..trainable.lora import merge_adapter, unmerged_adapter

    try:
        found = adapter or unmerged_adapter(folder)
        if found is None:
            raise ConfigError(
                f"{folder} is no output of a stage with lora.merge: false. Name the adapter with --adapter."
            )
        if out.exists() and any(out.iterdir()):
            raise ConfigError(f"{out} is not empty. Name a new folder.")
        model = load_model(folder)
        merge_adapter(model, found)
        model.save_pretrained(out)
        load_processor(folder, model.config).save_pretrained(out)
    except (OSError, ValueError) as error:
        fail(error)
    Console().print(plain(f"written to {out}"), highlight=False)


__all__ = ["merge"]
