"""Evaluations of ablations -> comparisons, facts of the variants, and tables in Markdown."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.compare.comparison import Report, compare_variants
from evaluation.compare.table import render_markdown
from evaluation.report.columns import number

Folders = Mapping[str, Sequence[Path]]
"""Variant -> evaluation of each seed."""


@dataclass(frozen=True)
class Facts:
    """What else is known of a variant; means over seeds.

    Args:
        parameters, active_parameters: Of the model, and those that a token passes at most.
        calls: Experts asked for the prompts, relative to the variant that is compared with.
        experts_used: exp(entropy) of the experts' shares: how many are used as evenly as this. Mean over layers and
            modalities.
        least_load: Share of the least used expert of a layer, all modalities together, relative to an even share.
            Mean over layers.
    """

    parameters: int
    active_parameters: int
    calls: float | None
    experts_used: float | None
    least_load: float | None


@dataclass(frozen=True)
class Finding:
    """An ablation's comparisons, and facts of its variants."""

    report: Report
    facts: dict[str, Facts]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**self.report.to_json(), "facts": {name: vars(facts) for name, facts in self.facts.items()}}


def compare_all(ablations: Mapping[str, tuple[str, Folders]]) -> dict[str, Finding]:
    """Compare the variants of each ablation; each is a table of its own, and is corrected for its own size.

    Args:
        ablations: Name -> the variant that others are compared with, and all variants.

    Raises:
        EvaluationError: If evaluations cannot be compared.
    """
    found = {}
    for name, (against, folders) in ablations.items():
        ordered = {against: folders[against], **folders}
        results = {variant: [read_results(path) for path in paths] for variant, paths in ordered.items()}
        asked = [count_calls(result) for result in results[against]]
        facts = {variant: describe(of_variant, asked) for variant, of_variant in results.items()}
        found[name] = Finding(compare_variants(ordered, against=against), facts)
    return found


def read_results(folder: Path) -> dict[str, Any]:
    """Return the results.json of an evaluation."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return results


def count_calls(results: Mapping[str, Any]) -> float | None:
    """Experts asked for the prompts whose routing was counted; None for a dense model."""
    return None if results["routing"] is None else float(_counts(results).sum())


def _counts(results: Mapping[str, Any]) -> np.ndarray:
    """Tokens sent to each expert, (M, L, E)."""
    routing = results["routing"]
    counts = [modality["counts"] for modality in routing["modalities"].values()]
    return np.array(counts, dtype=float)[..., : routing["num_experts"]]


def describe(results: Sequence[Mapping[str, Any]], asked: Sequence[float | None]) -> Facts:
    """Facts of a variant, from the results of its seeds.

    Args:
        results: One for each seed.
        asked: Calls of the variant that is compared with, of the same seeds.
    """
    model = results[0]["model"]
    sizes = {key: model[key] for key in ("parameters", "active_parameters")}
    if results[0]["routing"] is None:
        return Facts(**sizes, calls=None, experts_used=None, least_load=None)
    calls = [_counts(result).sum() / there for result, there in zip(results, asked, strict=True) if there]
    used = [
        np.mean([modality["mean_experts_used"] for modality in result["routing"]["modalities"].values()])
        for result in results
    ]
    loads = [_counts(result).sum(axis=0) for result in results]  # (L, E) each
    least = [np.mean(load.min(axis=-1) / load.mean(axis=-1)) for load in loads]
    return Facts(
        **sizes,
        calls=float(np.mean(calls)) if calls else None,
        experts_used=float(np.mean(used)),
        least_load=float(np.mean(least)),
    )


def render(findings: Mapping[str, Finding], titles: Mapping[str, tuple[str, str]]) -> str:
    """All ablations in Markdown: title, question, table of comparisons, how to read it, table of facts.

    Args:
        findings: From `compare_all`.
        titles: Name -> title and question.
    """
    parts = []
    for name, finding in findings.items():
        title, question = titles[name]
        parts += [f"### {title}", question, render_markdown(finding.report).strip(), facts_table(finding)]
    return "\n\n".join(parts) + "\n"


def facts_table(finding: Finding) -> str:
    """Facts of the variants in Markdown."""
    against = finding.report.against
    titles = ["variant", "parameters", "active", f"expert calls, {against} = 1", "experts used", "least load"]
    lines = [titles, ["---"] * len(titles)]
    for name, facts in finding.facts.items():
        sizes = [f"{facts.parameters:,}", f"{facts.active_parameters:,}"]
        shares = [number(value, digits=2) for value in (facts.calls, facts.experts_used, facts.least_load)]
        lines.append([name, *sizes, *shares])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put_section(file: Path, heading: str, text: str) -> None:
    """Write a section of a Markdown file anew; without one of this heading, at its end.

    Args:
        file: Created if it is not there.
        heading: Of the section, at level 2; it ends before the next one.
        text: What it says.
    """
    before = file.read_text(encoding="utf-8").rstrip() + "\n" if file.is_file() else ""
    section = f"## {heading}\n\n{text.strip()}\n"
    pattern = re.compile(rf"^## {re.escape(heading)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    if match := pattern.search(before):
        rest = before[match.end() :]
        after = before[: match.start()] + section + (f"\n{rest}" if rest else "")
    else:
        after = f"{before}\n{section}" if before else section
    file.write_text(after, encoding="utf-8")


__all__ = ["Facts", "Finding", "Folders", "compare_all", "describe", "put_section", "render"]
