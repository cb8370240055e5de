"""The papers of a trained folder: its model card, the history of its stages, and the stage as it was run."""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from unimoe.errors import ConfigError, UniMoEError
from unimoe.errors.visible import markdown
from unimoe.files.strict_json import parse_json
from unimoe.files.strict_yaml import read_yaml_file
from unimoe.media import Limits
from unimoe.surgery import Certificate
from unimoe.surgery.certificate import FILE_NAME as CERTIFICATE_FILE

from ..config.stage import StageConfig
from ..files import write_safely

HISTORY_FILE = "history.json"
STAGE_FILE = "stage.yaml"


def read_history(start: StageConfig) -> list[dict[str, Any]]:
    """Collect the stages that led to a stage's start, in order; none if it does not start from our own folders."""
    assemble = start.start.assemble
    specialists = start.start.specialists
    alone = specialists.base if specialists else start.start.path or ""
    folders = [assemble.base, *chain(*assemble.expert_folders.values())] if assemble else [alone]
    history: list[dict[str, Any]] = []
    for path in (Path(folder) / HISTORY_FILE for folder in folders):
        entries = read_entries(path) if path.is_file() else []
        history += [entry for entry in entries if entry not in history]
    return history


def read_entries(path: Path) -> list[dict[str, Any]]:
    """Read a `history.json`.

    Raises:
        ConfigError: If it is damaged.
    """
    try:
        entries = parse_json(path.read_bytes(), where=str(path))
    except (OSError, UniMoEError) as error:
        said = error.problem if isinstance(error, UniMoEError) else error.strerror
        raise ConfigError(str(path), f"is damaged: {said}", _LOST) from None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and entry.keys() >= _KEYS for entry in entries
    ):
        raise ConfigError(str(path), "is damaged: it is no list of stages.", _LOST)
    return entries


_KEYS = {"stage", "start", "train", "data", "seed", "steps", "samples", "loss"}
_LOST = "Bring it back; or remove it, and the model card will not tell of the stages before."


def describe_stage(
    name: str,
    config: StageConfig,
    *,
    rows: dict[str, int | None],
    steps: int,
    samples: int,
    loss: float,
    seconds: float,
) -> dict[str, Any]:
    """Summarise a finished stage for the history.

    Args:
        name: The stage's name.
        config: What was run.
        rows: Rows of each data file; None for a stream.
        steps: Optimizer steps.
        samples: Rows shown, repetitions counted.
        loss: Mean training loss over the whole stage.
        seconds: Duration of the training, since it was last resumed.
    """
    values = config.model_dump()
    return {
        "stage": name,
        "start": values["start"],
        "train": values["train"],
        "data": [
            {"path": source.path, "rows": rows[source.path], "weight": source.weight} for source in config.data.mixture
        ],
        "seed": config.seed,
        "steps": steps,
        "samples": samples,
        "loss": round(loss, 4),
        "seconds": round(seconds, 1),
        "output": config.output,
    }


def write_papers(
    folder: Path, config: StageConfig, history: list[dict[str, Any]], *, certificate: Certificate | None
) -> None:
    """Write `README.md`, `history.json`, `stage.yaml` and, if the model was assembled, `certificate.json`."""
    write_stage(folder, config)
    if certificate is not None:
        certificate.save(folder)
    else:  # of a model that was here before
        (folder / CERTIFICATE_FILE).unlink(missing_ok=True)
    write_safely(folder / "README.md", model_card(folder.name, history, certificate))
    write_history(folder, history)


def write_history(folder: Path, history: list[dict[str, Any]]) -> None:
    """Write `history.json`, last of all files: it says that the stage is complete."""
    write_safely(folder / HISTORY_FILE, json.dumps(history, indent=2) + "\n")


def write_stage(folder: Path, config: StageConfig) -> None:
    """Write `stage.yaml`, a configuration that runs the stage again."""
    stage = yaml.safe_dump(config.model_dump(), sort_keys=False)
    write_safely(folder / STAGE_FILE, f"# python -m training {STAGE_FILE}\n{stage}")


def read_stage(path: Path) -> dict[str, Any]:
    """Read a `stage.yaml`, which has all defaults written out and so is larger than the file that it was made of.

    Raises:
        ConfigError: If it cannot be read.
    """
    limits = Limits.from_environment()
    limits = replace(limits, yaml_keys=20 * limits.yaml_keys, yaml_bytes=20 * limits.yaml_bytes)
    values = read_yaml_file(path, limits)
    if not isinstance(values, dict):
        raise ConfigError(
            str(path), "is damaged: it holds no mapping of keys.", "Bring it back, or remove the folder."
        )
    return values


def model_card(name: str, history: list[dict[str, Any]], certificate: Certificate | None) -> str:
    """Write the model card: how to load the model, its stages and data, and its certificate."""
    lines = [
        "---",
        "library_name: transformers",
        "tags: [unimoe, multimodal, mixture-of-experts]",
        "pipeline_tag: any-to-any",
        "---",
        "",
        f"# {markdown(name)}",
        "",
        "A multimodal model trained with unimoe.",
        "",
        "```python",
        "from transformers import AutoModelForMultimodalLM, AutoProcessor",
        "",
        'processor = AutoProcessor.from_pretrained("PATH/TO/THIS/FOLDER", trust_remote_code=True)',
        'model = AutoModelForMultimodalLM.from_pretrained("PATH/TO/THIS/FOLDER", trust_remote_code=True)',
        "```",
        "",
        "## Stages",
        "",
        "| stage | start | trained | steps | samples | mean loss | seed |",
        "|---|---|---|---|---|---|---|",
        *(_stage_row(entry) for entry in history),
        "",
        "The exact settings of the last stage are in `stage.yaml`, its losses in `metrics.jsonl`.",
        "",
        "## Data",
        "",
        "| stage | file | rows | weight |",
        "|---|---|---|---|",
        *(
            f"| {markdown(entry['stage'])} | {markdown(source['path'])} | {_row_count(source['rows'])} "
            f"| {source['weight']:g} |"
            for entry in history
            for source in entry["data"]
        ),
        "",
    ]
    return "\n".join(lines + (_certificate_lines(certificate) if certificate else []))


def _row_count(rows: int | None) -> str:
    return "a stream" if rows is None else f"{rows:,}"


def _stage_row(entry: dict[str, Any]) -> str:
    start = entry["start"]
    if isinstance(start, dict):
        start = " + ".join(_sources(start))
    lora = entry["train"]["lora"]
    trained = ", ".join(
        [*entry["train"]["parts"], *([f"LoRA r={lora['r']}: {', '.join(lora['parts'])}"] if lora else [])]
    )
    numbers = f"{entry['steps']:,} | {entry['samples']:,} | {entry['loss']:.3f} | {entry['seed']}"
    return f"| {markdown(entry['stage'])} | {markdown(str(start))} | {markdown(trained)} | {numbers} |"


def _sources(start: dict[str, Any]) -> list[str]:
    """Models that a start was made from."""
    if build := start.get("build"):
        return [build[name] for name in ("language", "vision", "speech", "audio") if build[name]]
    if specialists := start.get("specialists"):
        return [specialists["base"]]
    experts = start["assemble"]["experts"].values()
    return [start["assemble"]["base"], *chain(*(given if isinstance(given, list) else [given] for given in experts))]


def _certificate_lines(certificate: Certificate) -> list[str]:
    return [
        "## Certificate",
        "",
        f"Operation {markdown(certificate.operation)}, {markdown(certificate.kind)}: {markdown(certificate.claim)} "
        "Largest difference: "
        f"{certificate.difference:.1e}. See `certificate.json`.",
        "",
    ]
