"""The distinct answers of a task and its confusion table, as reports write them; what they say is in results.json."""

from typing import Any

Cells = list[list[str]]


def distinct_answers(task: dict[str, Any]) -> str:
    """Say in a line how many distinct answers were given and wanted, and which one was given most often.

    Args:
        task: What results.json says of it.
    """
    found, rows = task["answers"], task["n"]
    text = f"{_distinct(found['distinct_given'])} given, {found['distinct_wanted']:,} wanted"
    if found["distinct_given"]:
        top = found["counts"][0]
        text += (
            f"; most often {top['answer']!r}: {_share(top['given'], rows)} given, {_share(top['wanted'], rows)} wanted"
        )
    if found["unparsed"]:
        text += f"; {found['unparsed']:,} of {rows:,} rows unparsed"
    return text


def _distinct(number: int) -> str:
    return f"{number:,} distinct answer{'' if number == 1 else 's'}"


def answer_cells(task: dict[str, Any], *, most: int) -> Cells:
    """Fill the table of distinct answers: titles, a line for each answer, and one for all that are not shown."""
    found, rows = task["answers"], task["n"]
    lines = [["answer", "given", "share", "wanted", "share"]]
    for entry in found["counts"][:most]:
        lines.append([entry["answer"], *_counted(entry, rows)])
    beyond = found["counts"][most:]
    rest = {key: found["rest"][key] + sum(entry[key] for entry in beyond) for key in ("given", "wanted")}
    if further := found["rest"]["answers"] + len(beyond):
        lines.append([f"({further:,} further)", *_counted(rest, rows)])
    return lines


def _counted(entry: dict[str, Any], rows: int) -> list[str]:
    return [cell for key in ("given", "wanted") for cell in (f"{entry[key]:,}", f"{entry[key] / rows:.1%}")]


def _share(number: int, rows: int) -> str:
    return f"{number / rows:.0%}"


_ELSEWHERE = {"other_class": "(class not listed)", "no_class": "(no class)", "unparsed": "(unparsed)"}
"""Columns beside the classes, where any row has one of them."""


def confusion_cells(task: dict[str, Any]) -> dict[str, Any] | None:
    """Lay out the confusion table: titles, a line for each wanted class, and what is not shown; None if there is none.

    A cell has its count, its share of the line in percent, and whether it is the right one.
    """
    if (found := task["answers"]["confusion"]) is None:
        return None
    beside = {key: title for key, title in _ELSEWHERE.items() if any(found[key])}
    lines = []
    for number, name in enumerate(found["classes"]):
        counts = [*found["counts"][number], *(found[key][number] for key in beside)]
        total = max(sum(counts), 1)
        cells = [
            {"count": count, "share": round(100 * count / total), "right": column == number}
            for column, count in enumerate(counts)
        ]
        lines.append({"name": f"{name} ({sum(counts):,})", "cells": cells})
    rest = found["rest"]
    said = (
        f"{rest['classes']:,} further classes, wanted by {rest['rows']:,} rows, have no line."
        if rest["classes"]
        else ""
    )
    return {"titles": ["", *found["classes"], *beside.values()], "lines": lines, "rest": said}


__all__ = ["answer_cells", "confusion_cells", "distinct_answers"]
