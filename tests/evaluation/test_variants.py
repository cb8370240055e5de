"""Folders become variants and seeds; what is given twice or is missing is named."""

from pathlib import Path

import pytest

from evaluation.compare.variants import collect_variants, find_seeds, name_runs, parse_group
from evaluation.errors import EvaluationError


def touch(parent: Path, *names: str) -> Path:
    for name in names:
        (parent / name).mkdir(parents=True)
        (parent / name / "results.json").touch()
    return parent


def test_runs_are_called_like_their_folders_or_where_alike_by_their_paths() -> None:
    assert [name for name, _ in name_runs([Path("runs/a"), Path("runs/b")])] == ["a", "b"]
    assert [name for name, _ in name_runs([Path("one/a"), Path("two/a")])] == ["one/a", "two/a"]


def test_a_group_is_a_name_and_folders() -> None:
    assert parse_group("top-k=runs/a-0, runs/a-1") == ("top-k", [Path("runs/a-0"), Path("runs/a-1")])
    for wrong in ("runs/a-0", "=runs/a", "a=", "a=b,,c"):
        with pytest.raises(EvaluationError, match="expected NAME=DIR,DIR"):
            parse_group(wrong)


def test_seeds_are_found_by_name_and_ordered_by_number(tmp_path: Path) -> None:
    touch(tmp_path, "top-k-10", "top-k-2", "top-p-10", "top-p-2", "notes")
    assert find_seeds(tmp_path) == {
        name: [tmp_path / f"{name}-{seed}" for seed in (2, 10)] for name in ("top-k", "top-p")
    }


def test_a_seed_that_only_some_have_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a-0", "a-1", "b-0")
    with pytest.raises(EvaluationError, match="b lacks seed 1"):
        find_seeds(tmp_path)
    with pytest.raises(EvaluationError, match="no folder VARIANT-SEED"):
        find_seeds(tmp_path / "none")


def test_a_name_or_a_folder_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="'a' is given twice"):
        collect_variants([tmp_path / "a"], ["a=other"])
    with pytest.raises(EvaluationError, match="given twice, for a and b"):
        collect_variants([tmp_path / "a"], [f"b={tmp_path / 'a'}"])
    with pytest.raises(EvaluationError, match="given twice"):
        collect_variants([tmp_path / "a", tmp_path / "a"])
    with pytest.raises(EvaluationError, match="given twice"):
        collect_variants([], ["a=x,x", "b=y,z"])


def test_one_run_is_not_two_seeds(tmp_path: Path) -> None:
    here = touch(tmp_path, "x", "y", "z")
    with pytest.raises(EvaluationError, match="given twice, for a and a"):
        collect_variants([], [f"a={here}/x,{here}/../{here.name}/x", f"b={here}/y,{here}/z"])
    touch(tmp_path, "mixed-1", "mixed-01")
    with pytest.raises(EvaluationError, match="are the same seed of one variant"):
        find_seeds(tmp_path)
