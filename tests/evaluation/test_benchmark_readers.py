"""What holds for every published benchmark, of pictures, speech, sounds and video."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from benchmark_damage import complaint, read, read_fixture, write
from benchmark_fixtures import FIXTURES

from evaluation.errors import EvaluationError
from evaluation.tasks import BENCHMARKS, Sample, image, read_hub, sound, video
from evaluation.tasks.choices import LETTERS


def test_every_benchmark_has_a_name_of_its_own_and_a_fixture() -> None:
    names = [benchmark.name for package in (image, sound, video) for benchmark in package.BENCHMARKS]
    assert names == list(BENCHMARKS) and set(names) == set(FIXTURES)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_rows_are_complete_and_their_media_are_there(name: str, tmp_path: Path) -> None:
    for sample in read_fixture(name, tmp_path):
        assert sample.media and all(Path(item["path"]).is_file() for item in sample.media)
        assert all(Path(item["path"]).is_relative_to(tmp_path.resolve()) for item in sample.media)
        assert sample.reference and sample.answers and sample.cluster
        assert sample.where.startswith(str(tmp_path / name))
        if sample.choices:
            assert sample.reference in LETTERS[: len(sample.choices)]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_annotation_files_are_hashed_and_questions_of_one_medium_are_one_cluster(name: str, tmp_path: Path) -> None:
    write(name, tmp_path)
    source = BENCHMARKS[name].source(tmp_path)
    clusters: dict[str, set[str]] = {}
    for sample in BENCHMARKS[name].samples(source):
        clusters.setdefault(str(sample.media), set()).add(sample.cluster)
    assert source.read and all(len(digest) == 64 for digest in source.read.values())
    assert all(len(found) == 1 for found in clusters.values())


@pytest.mark.parametrize("name", [name for name, benchmark in BENCHMARKS.items() if benchmark.shares])
def test_parts_of_a_benchmark_read_the_folder_of_the_whole(name: str, tmp_path: Path) -> None:
    write(BENCHMARKS[name].shares, tmp_path)
    shared = read(name, tmp_path)
    write(name, tmp_path)
    assert read(name, tmp_path).keys() == shared.keys()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_without_files_the_whole_tree_its_origin_and_licence_are_told(name: str, tmp_path: Path) -> None:
    benchmark = BENCHMARKS[name]
    said = complaint(name, tmp_path)
    assert f"{tmp_path / (benchmark.shares or name)}" in said and "is missing" in said
    assert all(fact in said for fact in (*benchmark.tree.strip().splitlines(), benchmark.origin, benchmark.licence))


def test_rows_of_the_hub_have_one_fingerprint_and_are_checked_like_files(tmp_path: Path) -> None:
    """The order in which media are left undecoded is that of the columns: it goes into the fingerprint."""
    row = {"index": 0, "question": "which?", "answer": "a dog", "options": ["a cat", "a dog"]}
    row |= {"task type": "Sound", "audio type": "Event"}
    media = {"audio": {"bytes": b"RIFF", "path": None}, "image": {"bytes": b"\x89PNG", "path": None}}
    features = datasets.Features(
        {
            **datasets.Dataset.from_list([row]).features,
            "image": datasets.Image(),
            "audio": datasets.Audio(),
        }
    )
    folder = tmp_path / "hub"
    folder.mkdir()

    def asked(*rows: Any) -> tuple[list[Sample], str]:
        datasets.Dataset.from_list([*rows]).cast(features).to_parquet(folder / "train.parquet")
        benchmark = BENCHMARKS["omnibench"]
        hub = replace(benchmark.hub, dataset=str(folder))
        return read_hub(replace(benchmark, hub=hub), benchmark.source(tmp_path))

    samples, fingerprint = asked({**row, **media})
    assert [item["type"] for item in samples[0].media] == ["audio", "image"] and samples[0].reference == "B"
    rows = datasets.load_dataset(str(folder), split="train")
    for name in (name for name in rows.features if name in media):
        rows = rows.cast_column(name, type(rows.features[name])(decode=False))
    assert fingerprint == rows._fingerprint
    with pytest.raises(EvaluationError, match="id '0' appears twice"):
        asked({**row, **media}, {**row, **media})


def test_questions_of_the_hub_must_have_all_rotations(tmp_path: Path) -> None:
    samples = list(read_fixture("mmbench", tmp_path))
    benchmark = BENCHMARKS["mmbench"]
    source = benchmark.source(tmp_path)
    rows = list(benchmark.rows(source))
    assert benchmark.whole(rows, source, where="here") == samples
    with pytest.raises(EvaluationError, match="rotations of its options"):
        benchmark.whole(rows[:1], source, where="here")
    with pytest.raises(EvaluationError, match="here: no rows of MMBench"):
        benchmark.whole([], source, where="here")
