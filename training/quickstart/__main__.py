"""`python -m training.quickstart OUT`: writes the quickstart's data, and the models that its stages start from."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unimoe.errors.terminal import fail

from ..config.recipe import load_recipe

DEFAULT_CONFIG = Path("configs/quickstart/quickstart.yaml")


def main(
    out: Annotated[Path, typer.Argument(help="Folder for data/, start/ and start-dense/.")],
    config: Annotated[Path, typer.Option(help="Recipe whose `model` gives the sizes.")] = DEFAULT_CONFIG,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key.sub=value, as for `training`.")] = None,
) -> None:
    """Write the quickstart's data and starting models; downloads nothing."""
    from transformers.utils import logging

    from .build import build_start
    from .rows import write_data

    logging.disable_progress_bar()
    console = Console()
    try:
        recipe = load_recipe(config, overrides or [])
        with console.status("Writing data"):
            counts = write_data(out / "data")
        for name, rows in counts.items():
            console.print(f"{out / 'data' / name}: {rows:,} rows")
        with console.status("Building models"):
            folders = build_start(recipe.model, data=out / "data", output=out, seed=recipe.seed)
        for folder in folders.values():
            console.print(f"{folder}: model and processor, random weights from seed {recipe.seed}")
    except (ValueError, FileNotFoundError) as error:
        fail(error)


if __name__ == "__main__":
    typer.run(main)
