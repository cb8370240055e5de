"""`check` finds every planted fault, with its row, key and cure, in each format, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from fault_kinds import FAULTS, Planted, good_rows, write_media
from hypothesis import given, settings
from hypothesis import strategies as st
from row_formats import FORMATS, QUESTION, SEEN, Llava, Messages
from typer.testing import CliRunner

from training.__main__ import app
from training.config.data import SourceConfig
from training.data import DataError, read_rows
from training.data.checking.check import Checker, Report
from unimoe import UniMoEProcessor
from unimoe.processing.lengths import TokenCounter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("faults")
    write_media(found)
    return found


@pytest.fixture(autouse=True)
def no_cache_of_tables(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def check(file, **options):
    return Checker(**options)(SourceConfig(path=str(file)))


def test_there_are_forty_kinds_of_faults_and_more():
    assert len(FAULTS) >= 40


def plant(form: Messages, *, as_json: bool = False) -> tuple[list[Any], dict[int, tuple[str, Planted]], list[Any]]:
    """Good rows with a bad one of each kind among them; the bad ones by their number."""
    good = good_rows(form)
    rows, planted = list(good), {}
    for name, plant_in in FAULTS.items():
        found = plant_in(form)
        if found is None or (as_json and isinstance(found.row, bytes)):
            continue
        if isinstance(found.row, dict) and found.row["id"] == "bad":
            found.row["id"] = name
        planted[len(rows)] = (name, found)
        rows += [found.row, {**good[len(planted) % len(good)], "id": f"good {name}"}]
    return rows, planted, good


def compare(report: Report, wanted: dict[str, tuple[str, Planted]]) -> None:
    """Each planted fault is reported once, by row, key and cure; nothing else is."""
    found = {error.where: error for error in report.problems}
    assert len(report.problems) == len(found), "no row has two"
    assert {where: wanted[where][0] for where in wanted if where not in found} == {}, "faults that were not found"
    assert {where: str(found[where]) for where in found if where not in wanted} == {}, "faults that are none"
    for where, (name, fault) in wanted.items():
        assert found[where].key == fault.key, (name, str(found[where]))
        assert fault.cure in found[where].cure and found[where].cure, (name, str(found[where]))
        assert found[where].problem and "\n" not in str(found[where])


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_planted_fault_is_reported_by_row_key_and_cure_and_nothing_else(form, folder):
    rows, planted, _ = plant(form)
    assert len(planted) >= 40
    file = form.write(folder / form.name, rows)
    report = check(file, decode=True)
    compare(report, {form.where(file, number): fault for number, fault in planted.items()})
    assert report.census.rows == len(rows) and len(report.census.turns) == len(rows) - len(planted)
    assert report.notes[0].endswith("say the same as a row before them.")


@pytest.mark.parametrize("form", FORMATS[:4], ids=lambda form: form.name)
def test_faults_are_found_in_a_json_list_too(form, folder):
    rows, planted, _ = plant(form, as_json=True)
    file = folder / f"{form.name}.json"
    file.write_text(json.dumps(rows, indent=1))
    compare(check(file, decode=True), {f"{file}: row {number}": fault for number, fault in planted.items()})


def test_without_decoding_all_is_found_that_headers_show(folder):
    form = FORMATS[0]
    rows, planted, _ = plant(form)
    hidden = {"picture_is_truncated", "picture_has_no_pixels", "sound_is_not_finite"}
    file = form.write(folder / "headers", rows)
    found = {error.where for error in check(file).problems}
    missed = {name for number, (name, _) in planted.items() if form.where(file, number) not in found}
    assert missed <= hidden and found <= {form.where(file, number) for number in planted}


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_training_refuses_the_first_fault_that_the_check_reports(form, folder):
    """One validator: what `check` says of a row without opening media, reading the file for training says too."""
    _, planted, good = plant(form)
    for name, fault in planted.values():
        if isinstance(fault.row, dict) and name != "name_of_another_row":
            file = form.write(folder / f"alone_{form.name}", [*good, fault.row])
            reported = [error for error in check(file).problems if "cannot be read" not in error.problem]
            reported = [error for error in reported if "empty" not in error.problem or "answer" in error.problem]
            if reported:
                with pytest.raises(DataError) as refused:
                    read_rows(file)
                assert str(refused.value) == str(reported[0]), name


def test_good_rows_are_read_for_training_in_every_format(folder):
    for form in FORMATS:
        good = good_rows(form)
        assert len(read_rows(form.write(folder / f"good_{form.name}", good))) == len(good)


def test_a_broken_list_is_reported_behind_the_rows_before_it(tmp_path):
    file = tmp_path / "rows.json"
    good = json.dumps(Messages().row("a", QUESTION))
    file.write_text(f"[{good}, {good[:-20]}")
    report = check(file)
    assert report.census.rows == 1 and len(report.problems) == 1
    assert report.problems[0].where == f"{file}: row 1" and "not valid JSON" in report.problems[0].problem
    with pytest.raises(DataError, match="row 1: not valid JSON"):
        read_rows(file)


def test_counts_are_of_good_rows(folder):
    form = FORMATS[1]
    file = form.write(folder / "counts", [*good_rows(form), form.row("text again", QUESTION)])
    census = check(file).census.as_json()
    assert census["rows"] == 13 and census["formats"] == {"columns": 7, "messages": 6}
    assert census["modalities"] == {"text": 6, "image": 3, "audio": 1, "video": 3}
    assert census["media"] == {"image": 4, "audio": 1, "video": 3}
    assert census["roles"]["system"] == 1 and census["turns"]["most"] == 5
    assert census["media_in_rows"] == {"least": 0, "median": 1.0, "mean": 0.62, "most": 2, "sum": 8}
    assert sum(census["words"]["histogram"].values()) == 13
    assert census["duplicate_rows"] == 4  # the text without an id, with the id 7 and again; the picture with metadata


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values within a value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in parts for found in ((*path, key), *places(part, (*path, key)))]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["good.png", "<image>"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "path", "bytes"]), inner),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FORMATS[:4]), st.integers(0, 10), st.data())
def test_whatever_is_put_into_a_row_the_check_reports_it_or_training_reads_it(folder, form, number, data):
    row = json.loads(json.dumps(good_rows(form)[number]))
    path = data.draw(st.sampled_from(places(row)))
    inside = row
    for key in path[:-1]:
        inside = inside[key]
    if data.draw(st.booleans()):
        inside[path[-1]] = data.draw(JSON)
    else:
        del inside[path[-1]]
    file = form.write(folder / f"any_{form.name}", [row])
    problems = [str(error) for error in check(file).problems if "cannot be read as" not in error.problem]
    try:
        read_rows(file)
    except DataError as error:
        assert problems[0] == str(error)
    else:
        assert problems == []


# The command


def run(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_the_command_says_row_key_problem_and_cure_and_exits_with_1(folder, tmp_path):
    bad = {"id": "x", "image": "Good.png", "conversations": Llava().row("x", SEEN, image=[""])["conversations"]}
    file = Llava().write(folder / "one", [Llava().row("good", QUESTION), bad])
    result = run(file, "--json", tmp_path / "out/report.json")
    assert result.exit_code == 1
    for word in ("1 problem(s)", "│ 2", "│ image", "there is no file", "Did you mean 'good.png'?", "an estimate"):
        assert word in result.stdout, result.stdout
    (report,) = json.loads((tmp_path / "out/report.json").read_text())
    assert report["rows"] == 2 and [problem["key"] for problem in report["problems"]] == ["image"]


def test_clean_data_exit_with_0_and_a_wrong_call_with_2(folder):
    good = Messages().write(folder / "clean", good_rows(FORMATS[0]))
    assert run(good, "--decode").exit_code == 0
    for arguments, words in [
        (["nowhere.jsonl"], "There is no data file 'nowhere.jsonl'"),
        ([good, "--max-length", "5"], "--model"),
        ([good, "--format", "lava"], "format"),
        ([good, "--column", "a"], "NAME=MEANING"),
        ([good, "--column", "a=usr"], "Did you mean 'user'"),
        ([good, "--model", folder], "no processor"),
    ]:
        result = run(*arguments)
        assert result.exit_code == 2 and words in result.stderr, (arguments, result.output)


def test_a_file_without_rows_and_one_of_another_encoding_are_problems(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "wide.jsonl").write_text(json.dumps(Messages().row("a", QUESTION)), encoding="utf-16")
    for name, word in [("empty", "no rows"), ("wide", "UTF-16")]:
        result = run(tmp_path / f"{name}.jsonl")
        assert result.exit_code == 1 and word in result.stdout, result.stdout


def test_with_a_model_tokens_are_those_that_training_sees(workspace, folder):
    processor = UniMoEProcessor.from_pretrained(workspace / "start")
    rows = [
        Messages().row(name, turns, image=["good.png"]) for name, turns in (("a", SEEN), ("b", [*SEEN, *QUESTION]))
    ]
    file = Messages().write(folder / "tokens", rows)
    lengths = [
        processor.apply_chat_template(row.messages, tokenize=True, return_dict=True)["attention_mask"]
        for row in read_rows(file)
    ]
    tokens = [sum(map(len, mask)) if isinstance(mask[0], list) else len(mask) for mask in lengths]
    report = check(file, counter=TokenCounter(processor))
    assert list(report.census.tokens) == tokens and not report.problems
    long = check(file, counter=TokenCounter(processor), max_length=tokens[0])
    assert [(error.where, error.problem) for error in long.problems] == [
        (f"{file}:2", f"{tokens[1]} tokens, more than max_length {tokens[0]}.")
    ]
    cut = check(file, counter=TokenCounter(processor), max_length=tokens[0], refuse_long=False)
    assert not cut.problems and cut.census.too_long == 1
    result = run(file, "--model", workspace / "start", "--max-length", tokens[0])
    assert result.exit_code == 1 and "tokens in a row" in result.stdout and "an estimate" not in result.stdout


def test_the_data_of_a_stage_are_checked_with_its_settings(workspace, make_stage, folder, tmp_path):
    (tmp_path / "sub").mkdir()
    data = Messages().write(tmp_path / "sub/data", [Messages().row("a", SEEN, image=["good.png"])])
    stage = make_stage(data={"mixture": [{"path": str(data), "media_root": str(folder)}, str(data)], "max_length": 5})
    (tmp_path / "stage.yaml").write_text(json.dumps(stage.model_dump(exclude_unset=True)))
    result = run(tmp_path / "stage.yaml", "--model", workspace / "start")
    assert result.exit_code == 1
    assert "more than max_length 5" in " ".join(result.stdout.split())  # of the first, whose picture is found
    assert "there is no file" in result.stdout  # of the second, which has no root of its own
