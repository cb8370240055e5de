import os
from pathlib import Path

import pytest

from evaluation.errors import EvaluationError
from evaluation.fingerprint import file_hash, model_fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chat_template.jinja"])
def test_a_changed_model_has_another_fingerprint(folder: Path, name: str) -> None:
    before = model_fingerprint(folder)
    (folder / name).write_bytes(b"changed")
    os.utime(folder / name, (1, 1))
    assert model_fingerprint(folder) != before


def test_what_is_no_part_of_the_model_does_not_count(folder: Path) -> None:
    before = model_fingerprint(folder)
    (folder / "README.md").write_text("a model card")
    assert model_fingerprint(folder) == before


def test_what_is_no_model_or_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no config\.json"):
        model_fingerprint(tmp_path)
    with pytest.raises(EvaluationError, match=r"none\.jsonl: cannot be read"):
        file_hash(tmp_path / "none.jsonl")
