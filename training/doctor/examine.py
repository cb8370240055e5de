"""Opens what a stage left, and examines it: settings, weights, `metrics.jsonl`, its start, and a few of its rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unimoe import UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.checkpoint.loading import load_processor, read_config
from unimoe.errors import ConfigError, DataError
from unimoe.files.settings import validate
from unimoe.surgery import Certificate
from unimoe.surgery.certificate import FILE_NAME as CERTIFICATE_FILE

from ..checkpoint.model_card import HISTORY_FILE, read_entries, read_stage
from ..config.stage import STAGE_FILE, StageConfig
from ..data import Collator, MixtureBatches, MixtureDataset, schedule_batches
from ..data.batching.packing import chunk
from ..data.mixture.dataset import read_mixture
from ..data.mixture.order import SampleIndex
from ..monitor.metrics_file import METRICS_FILE, read_metrics
from ..monitor.mixture import MixtureSnapshot, take_snapshot
from ..trainable.parts import turn_task_on
from ..trainer.start import load_start, load_weights, snapshot_of_start
from .facts import Evidence, MixtureFacts, TaskGradients, collect_facts
from .findings import Finding
from .gradients import task_gradients
from .rules import find

LOOKED_AT = 2000
"""Samples, as the training shows them first, among which those that are examined are chosen."""
_BATCH = 8
"""Rows that are examined at once."""
_WITHOUT_DATA = (
    f"Paths of {STAGE_FILE} count from the folder that the stage was run in. Without data, --rows 0 examines "
    "settings, weights and load."
)
_RUN_STAGE = "Name the output folder of a stage that trained a mixture of experts, or of a recipe with one."


@dataclass(frozen=True)
class Examination:
    """What was found in the output of a stage.

    Args:
        folder: The output.
        facts: What was measured.
        findings: What is wrong, the gravest first.
    """

    folder: Path
    facts: MixtureFacts
    findings: list[Finding]

    def as_json(self) -> dict[str, Any]:
        """Lay it out."""
        return {
            "run": str(self.folder),
            "findings": [finding.as_json() for finding in self.findings],
            "facts": self.facts.as_json(),
        }


def find_stages(run: Path) -> list[Path]:
    """Find the outputs with a mixture in a folder: itself, or of a recipe those in it, in the order they were trained.

    Raises:
        ConfigError: If there is none; it says what the folder is instead.
    """
    if not run.is_dir():
        raise ConfigError(str(run), "there is no such folder.", _RUN_STAGE)
    if (run / STAGE_FILE).is_file():
        _check_stage(run)
        return [run]
    inside = [path for path in sorted(run.iterdir()) if (path / STAGE_FILE).is_file()]
    if not inside:
        raise ConfigError(str(run), f"is no output of a stage: it holds no {STAGE_FILE}.", _RUN_STAGE)
    finished = [path for path in inside if (path / HISTORY_FILE).is_file() and (path / "config.json").is_file()]
    mixtures = [path for path in finished if _num_experts(path)]
    if not mixtures:
        names = ", ".join(path.name for path in inside)
        raise ConfigError(str(run), f"no finished stage in it has experts ({names}).", _RUN_STAGE)
    return sorted(mixtures, key=lambda path: (len(read_entries(path / HISTORY_FILE)), path.name))


def _check_stage(run: Path) -> None:
    if not (run / "config.json").is_file():
        begun = [path.name for path in run.iterdir() if path.name.startswith("checkpoint-")]
        cure = "Finish it with --resume, or examine what `python -m training consolidate` makes of a checkpoint."
        raise ConfigError(
            str(run), f"holds no model: its stage is unfinished ({', '.join(sorted(begun)) or 'no checkpoint'}).", cure
        )
    if not _num_experts(run):
        raise ConfigError(str(run), "has no experts: its model is dense.", _RUN_STAGE)


def _num_experts(folder: Path) -> int:
    return int((read_config(folder).get("text_config") or {}).get("num_experts") or 0)


def examine(folder: Path, *, rows: int, processes: int | None = None) -> Examination:
    """Examine the output of a stage.

    Args:
        folder: The output; its stage had experts.
        rows: Rows of its data on which gradients are measured. 0: none, and data are not needed.
        processes: Among which experts are shared out. None: as the stage did.

    Raises:
        ConfigError: If the output is damaged, or its experts cannot be shared out so.
        DataError: If its data are gone or changed.
    """
    stage = validate(StageConfig, _without_file(read_stage(folder / STAGE_FILE)), source=str(folder / STAGE_FILE))
    model = load_weights(str(folder))
    turn_task_on(model, stage.train)
    processes = processes or stage.parallel.expert_parallel_size
    if (number := model.config.get_text_config().num_experts) % processes:
        problem = f"{number} experts cannot be shared out to {processes} processes."
        raise ConfigError(str(folder), problem, "Choose a number that divides them.")
    logs = read_metrics(folder / METRICS_FILE)
    missing = [] if any(log.get("load") for log in logs) else [f"load of the training: {METRICS_FILE} has none"]
    now, before = take_snapshot(model), _snapshot_before(stage, missing)
    gradients, modalities = None, list[str]()
    if rows:
        try:
            gradients, modalities = _run_rows(model, stage, load_processor(folder, model.config), rows)
        except DataError as error:
            raise DataError(f"{error} {_WITHOUT_DATA}") from None
    else:
        missing.append("gradients: --rows is 0")
    certificate = Certificate.load(folder) if (folder / CERTIFICATE_FILE).is_file() else None
    evidence = Evidence(now, before, certificate, logs, modalities, gradients, processes, tuple(missing))
    facts = collect_facts(model, stage.train, evidence)
    return Examination(folder, facts, find(facts))


def _run_rows(
    model: UniMoEForConditionalGeneration, stage: StageConfig, processor: UniMoEProcessor, rows: int
) -> tuple[TaskGradients, list[str]]:
    """Run rows of a stage's data through its model, on a GPU if there is one; return the data's modalities too."""
    dataset, chosen, modalities = choose_rows(stage, processor, rows)
    if torch.cuda.is_available() and not stage.trainer.get("use_cpu"):
        nn.Module.to(model, "cuda")
    torch.manual_seed(stage.seed)  # of routers with noise
    collator = Collator(processor)
    batches = (collator([dataset[index] for index in batch]) for batch in chunk(chosen, _BATCH))
    return task_gradients(model, stage.train, batches), modalities


def _without_file(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the file of DeepSpeed's settings, which need not be here."""
    if isinstance(parallel := values.get("parallel"), dict):
        parallel["deepspeed"] = None
    return values


def _snapshot_before(stage: StageConfig, missing: list[str]) -> MixtureSnapshot | None:
    """Look at the experts and routers that a stage began with; note in `missing` if they cannot be had any more."""
    try:
        before = snapshot_of_start(load_start(stage)[0], stage)
    except ConfigError as error:
        missing.append(f"how far experts and routers moved: {error}")
        return None
    if before is None:
        missing.append("how far experts and routers moved: the stage went on with an adapter")
    return before


def choose_rows(
    stage: StageConfig, processor: UniMoEProcessor, rows: int
) -> tuple[MixtureDataset, list[SampleIndex], list[str]]:
    """Choose rows of a stage's data: of each set of modalities in turn, in the order in which the training shows them.

    Args:
        stage: What the data are.
        processor: It measures rows where some are too long.
        rows: How many.

    Returns:
        The data, the rows, and all modalities that were seen on the way.

    Raises:
        DataError: If the data are gone or a row does not fit.
    """
    dataset = MixtureDataset(read_mixture(stage.data), seed=stage.seed)
    schedule = schedule_batches(stage.data, dataset, processor, sized=False)
    indices: Iterator[SampleIndex] = islice(dataset.indices(0), LOOKED_AT)
    if schedule.measures:
        indices = (index for index, _ in MixtureBatches(dataset, schedule, batch_size=1).fit(indices))
    by_kind: dict[frozenset[str], list[SampleIndex]] = {}
    for index in indices:
        by_kind.setdefault(frozenset(dataset.row(index)[0].kinds), []).append(index)
    turns = zip_longest(*by_kind.values())
    chosen = [index for turn in turns for index in turn if index is not None][:rows]
    return dataset, chosen, sorted({kind for kinds in by_kind for kind in kinds})


__all__ = ["Examination", "choose_rows", "examine", "find_stages"]
