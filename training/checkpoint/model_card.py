"""The metadata of a trained folder: its model card, the history of its stages, and the stage as it was run."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from unimoe import UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.errors import ConfigError, UniMoEError
from unimoe.errors.visible import markdown
from unimoe.files.strict_json import parse_json
from unimoe.files.strict_yaml import read_yaml_file
from unimoe.files.writing import write_whole
from unimoe.media import Limits
from unimoe.surgery import Certificate
from unimoe.surgery.certificate import FILE_NAME as CERTIFICATE_FILE

from ..config.stage import STAGE_FILE, StageConfig

HISTORY_FILE = "history.json"


@dataclass
class Metadata:
    """What a stage writes beside weights: into its checkpoints, and into the model that it leaves.

    Args:
        config: The stage.
        processor: Of its model.
        certificate: Of the assembly that it starts from, if it does.
        history: Makes the history up to now, this stage as its last entry.
    """

    config: StageConfig
    processor: UniMoEProcessor
    certificate: Certificate | None
    history: Callable[[], list[dict[str, Any]]]

    def describe(self, folder: Path, model: UniMoEForConditionalGeneration) -> None:
        """Write all of a model but its weights."""
        folder.mkdir(parents=True, exist_ok=True)
        model.config.save_pretrained(folder)
        self._write(folder)

    def save(self, folder: Path, model: UniMoEForConditionalGeneration) -> None:
        """Write a model with its processor and metadata."""
        model.save_pretrained(folder)
        self._write(folder)

    def _write(self, folder: Path) -> None:
        """Write the processor, `stage.yaml`, `certificate.json` if the model was assembled, card and history."""
        self.processor.save_pretrained(folder)
        write_stage(folder, self.config)
        if self.certificate is not None:
            self.certificate.save(folder)
        else:  # of a model that was here before
            (folder / CERTIFICATE_FILE).unlink(missing_ok=True)
        history = self.history()
        write_whole(folder / "README.md", model_card(folder.name, history, self.certificate))
        write_history(folder, history)


def read_history(start: StageConfig) -> list[dict[str, Any]]:
    """Collect the stages that led to a stage's start, in order; none if it does not start from our own folders."""
    assemble = start.start.assemble
    specialists, extend = start.start.specialists, start.start.extend
    alone = specialists.base if specialists else start.start.path or ""
    folders = [assemble.base, *chain(*assemble.expert_folders.values())] if assemble else [alone]
    folders = list(extend.folders.values()) if extend else folders
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
    log: list[dict[str, Any]],
    seconds: float,
    fitted: dict[str, Any],
    warnings: list[str],
) -> dict[str, Any]:
    """Summarise a stage for the history, with its last losses on validation rows and what was warned of.

    Args:
        name: The stage's name.
        config: What was run.
        rows: Rows of each data file; None for a stream.
        steps: Optimizer steps.
        samples: Rows shown, repetitions counted.
        log: What the trainer logged.
        seconds: Duration of the training, since it was last resumed.
        fitted: Rows that were cut or dropped.
        warnings: What was warned of.
    """
    values = config.model_dump()
    last: dict[str, Any] = next((line for line in reversed(log) if "eval_loss" in line), {})
    validation = {key: round(value, 4) for key, value in last.items() if key.startswith("eval_loss")}
    entry = {
        "stage": name,
        "start": values["start"],
        "train": values["train"],
        "data": [
            {"path": source.path, "rows": rows[source.path], "weight": source.weight} for source in config.data.mixture
        ],
        "seed": config.seed,
        "steps": steps,
        "samples": samples,
        "loss": round(mean_loss(log), 4),
        "seconds": round(seconds, 1),
        "output": config.output,
    }
    further = {"held_back": validation, "warnings": warnings}
    return entry | fitted | {key: value for key, value in further.items() if value}


def mean_loss(log: list[dict[str, Any]]) -> float:
    """Mean of the logged losses, each over the steps since the log before it."""
    total, last = 0.0, 0
    for entry in log:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last)
            last = entry["step"]
    return total / max(last, 1)


def write_history(folder: Path, history: list[dict[str, Any]]) -> None:
    """Write `history.json`, last of all files: it says that the stage is complete."""
    write_whole(folder / HISTORY_FILE, json.dumps(history, indent=2) + "\n")


def write_stage(folder: Path, config: StageConfig) -> None:
    """Write `stage.yaml`, a configuration that runs the stage again."""
    stage = yaml.safe_dump(config.model_dump(), sort_keys=False)
    write_whole(folder / STAGE_FILE, f"# python -m training {STAGE_FILE}\n{stage}")


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
    if extend := start.get("extend"):
        return [extend[key] for key in ("base", "encoder_of") if extend[key]]
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
