"""Names that rows give to media and files stay within a folder: nothing is read outside of it, and nothing written."""

import hashlib
import os
from pathlib import Path

import pytest
from benchmark_damage import read_hub_row
from fixture_files import write_sound

from evaluation.config import EvaluationConfig
from evaluation.errors import EvaluationError
from evaluation.tasks.media import Medium
from evaluation.tasks.row import Row
from evaluation.tasks.source import Source
from unimoe.files.writing import write_whole

OUTWARD = [
    "../secret.wav",
    "a/../../secret.wav",
    "..",
    "a/..",
    "..\\secret.wav",
    "a\\..\\..\\secret.wav",
    "C:\\secret.wav",
    "c:/secret.wav",
    "\\\\host\\share\\secret.wav",
    "/etc/passwd",
    "//etc/passwd",
    "a\0.wav",
    "a.wav\0",
]
NAMES = [
    *OUTWARD,
    ".",
    "",
    "a/b",
    "/",
    "~",
    "a" * 500,
    "\u202ea",
    "CON .",
    "a\nb",
    ".hidden",
    "\ud800",
    "\u00e9" * 200,
]


class Clip(Row):
    audio: Medium


def unpack(source: Source, content: bytes | None, path: str | None = None, **naming: str) -> str:
    """Where a medium of a row is."""
    return source.medium(Clip.parse({"audio": {"bytes": content, "path": path}}, "row 1").audio, "row 1", **naming)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    write_sound(tmp_path / "secret.wav")
    (tmp_path / "data" / "mmau" / "a").mkdir(parents=True)
    return Source("mmau", tmp_path / "data" / "mmau", "see the page")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("name", OUTWARD)
def test_no_medium_is_read_outside_of_a_benchmarks_folder(source: Source, name: str) -> None:
    absolute = str(source.root.parent.parent / "secret.wav")
    for given in (name, absolute, f"{source.root}/../../secret.wav", f"{source.root}-else/a.wav"):
        with pytest.raises(EvaluationError, match=r"row 1: the path .* is none below .*mmau"):
            source.media("row 1", given)
        with pytest.raises(EvaluationError, match=r"row 1: "):
            unpack(source, None, given)


@pytest.mark.parametrize("name", [name for name in OUTWARD if "etc" not in name and "\0" not in name])
def test_the_end_of_a_path_is_looked_for_within_the_folder_alone(source: Source, name: str) -> None:
    with pytest.raises(EvaluationError, match=r"^row 1: "):
        source.tail("row 1", name)
    write_sound(source.root / "secret.wav")
    assert source.tail("row 1", "../../secret.wav") == str((source.root / "secret.wav").resolve())


@pytest.mark.parametrize("name", ["a" * 5000, "a/" * 3000 + "b.wav", "\ud800.wav"])
def test_a_name_that_no_file_can_have_is_missing(source: Source, name: str) -> None:
    with pytest.raises(EvaluationError, match=r"^row 1: .*is missing"):
        source.media("row 1", name)


def test_links_of_a_folders_owner_are_followed(source: Source, tmp_path: Path) -> None:
    """Folders of pictures are shared between benchmarks, and snapshots of the Hub are made of links."""
    (source.root / "audio").symlink_to(tmp_path)
    assert source.media("row 1", "audio/secret.wav") == str(tmp_path / "secret.wav")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_unpacked_stays_in_its_folder_whatever_a_row_calls_it(
    source: Source, tmp_path: Path, name: str
) -> None:
    before = files(tmp_path)
    path = Path(unpack(source, b"sound", name, name=name, ending=".wav"))
    direct = Path(source.unpack(name, b"sound"))
    assert path.parent == direct.parent == source.root.resolve() / "unpacked"
    assert path.read_bytes() == direct.read_bytes() == b"sound"
    assert all(new.startswith("data/mmau/unpacked/") for new in files(tmp_path) - before)


@pytest.mark.parametrize("identity", ["../../../evil", "/tmp/evil", "a/b", "a\0b"])
def test_ids_of_rows_of_the_hub_are_no_paths(source: Source, tmp_path: Path, identity: str) -> None:
    row = {"id": identity, "question": "q", "choices": ["x", "y"], "answer": "x", "task": "t", "difficulty": "d"}
    row |= {"sub-category": "s", "audio": {"bytes": b"sound", "path": None}}
    before = files(tmp_path)
    (item,) = read_hub_row("mmau", row, source.root.parent).media
    assert Path(item["path"]).parent == source.root.resolve() / "unpacked"
    assert all(new.startswith("data/mmau/unpacked/") for new in files(tmp_path) - before)


def test_names_that_differ_in_case_alone_or_not_at_all_are_two_files(source: Source) -> None:
    contents = {b"one": "Clip", b"two": "clip", b"three": "CLIP", b"four": "clip"}
    paths = [unpack(source, content, name=name) for content, name in contents.items()]
    assert [Path(path).read_bytes() for path in paths] == [*contents]
    assert len({Path(path).name.casefold() for path in paths}) == 4


def test_a_file_that_is_there_already_with_another_content_is_written_anew(source: Source) -> None:
    path = Path(source.unpack("a.wav", b"sound"))
    path.write_bytes(b"SOUND")
    assert Path(Source("mmau", source.root, "").unpack("a.wav", b"sound")).read_bytes() == b"sound"


def test_links_in_the_place_of_what_is_unpacked_are_not_written_through(source: Source, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    folder = source.root / "unpacked"
    folder.mkdir()
    name = hashlib.sha256(b"sound").hexdigest()[:20] + ".wav"
    for place in (name, f"{name}.{os.getpid()}.partial", "a.wav", f"a.wav.{os.getpid()}.partial"):
        (folder / place).symlink_to(victim)
    unpacked = [
        source.unpack("a.wav", b"sound"),
        unpack(source, b"sound", ending=".wav"),
    ]
    assert victim.read_text() == "kept" and [Path(path).read_bytes() for path in unpacked] == [b"sound"] * 2


def test_a_folder_of_unpacked_media_that_is_a_link_elsewhere_is_refused(source: Source, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (source.root / "unpacked").symlink_to(tmp_path / "else")
    with pytest.raises(EvaluationError, match=r"unpacked is a link to .*else"):
        source.unpack("a.wav", b"sound")
    assert not any((tmp_path / "else").iterdir())


def test_a_partial_file_of_a_killed_process_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / f"a.json.{os.getpid()}.partial").write_text("half")
    write_whole(tmp_path / "a.json", "whole \ud800")
    assert files(tmp_path) == {"a.json"} and (tmp_path / "a.json").read_text() == "whole \\ud800"


@pytest.mark.parametrize(
    "name", ["../a", "/a", "a/b", "a\\b", "a\0", "a\nb", "..", ".", ".a", "", "a" * 200, "\x1b[31m", "[red]", "<b>"]
)
def test_a_task_is_named_as_its_files_are(name: str) -> None:
    """Configurations come with results of others, too: `compare` reads predictions/NAME.jsonl."""
    with pytest.raises(ValueError, match="is also that of a file"):
        EvaluationConfig(output=Path("x"), tasks={name: {"benchmark": "pope"}})


def test_tasks_that_differ_in_case_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="'Pope' and 'pope' differ in case alone"):
        EvaluationConfig(output=Path("x"), tasks={"Pope": {"benchmark": "pope"}, "pope": {"benchmark": "pope"}})
