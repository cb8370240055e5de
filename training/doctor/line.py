"""The one line that a stage ends with if it trained a mixture: what settings, weights and load already tell.

No row is run through the model for it, so that it costs what asking each expert about a few random states costs, and
is the same under DeepSpeed and in several processes. Gradients are for `python -m training doctor`.
"""

from collections.abc import Sequence
from pathlib import Path

from unimoe import UniMoEForConditionalGeneration
from unimoe.surgery import Certificate

from ..config.stage import StageConfig
from ..monitor.metrics_file import METRICS_FILE, read_metrics
from ..monitor.mixture import MixtureSnapshot, take_snapshot
from .facts import Evidence, collect_facts
from .rules import find


def mixture_line(
    model: UniMoEForConditionalGeneration,
    config: StageConfig,
    *,
    before: MixtureSnapshot | None,
    certificate: Certificate | None,
    modalities: Sequence[str],
) -> str | None:
    """Say in a line how the mixture of a finished stage is; None if the stage trained none.

    Args:
        model: As it was written, whole.
        config: The stage.
        before: Experts and routers that it began with. None: not known.
        certificate: Of the assembly that it began with, if it did.
        modalities: Of its data.
    """
    if not model.config.get_text_config().num_experts:
        return None
    command = f"python -m training doctor {config.output}"
    if config.train.lora is not None and not config.train.lora.merge:
        return f"router: not examined, for the adapter of the stage is apart from its model. Examine both: {command}"
    logs = read_metrics(Path(config.output) / METRICS_FILE)
    evidence = Evidence(
        take_snapshot(model), before, certificate, logs, modalities, processes=config.parallel.expert_parallel_size
    )
    facts = collect_facts(model, config.train, evidence, count=False)
    if not facts.trains:
        return None
    findings = [finding for finding in find(facts) if finding.kind.severity != "note"]
    unseen = ["gradients"] + (["load"] if not facts.load_of and facts.has_load else [])
    unseen += ["how far experts moved"] if before is None else []
    not_examined = f"not examined: {', '.join(unseen)}"
    if not findings:
        return f"router: healthy ({not_examined}; {command})"
    names = ", ".join(dict.fromkeys(finding.name for finding in findings))
    return f"router: {names} ({not_examined}). What it is and what to change: {command}"


__all__ = ["mixture_line"]
