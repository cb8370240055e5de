"""What is said of damaged benchmarks: what was wrong, in which row, and the cure."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_damage import Rows, complaint, damaged, read_hub_row, write
from fixture_files import Row

from evaluation.tasks import BENCHMARKS, image
from evaluation.tasks.image.yes_no import COGNITION, PERCEPTION

NAMES = [benchmark.name for benchmark in image.BENCHMARKS]
MATH = "Math/validation-00000-of-00001.parquet"
VQA_QUESTIONS = Rows("v2_OpenEnded_mscoco_val2014_questions.json", within="questions")
VQA_ANNOTATIONS = Rows("v2_mscoco_val2014_annotations.json", within="annotations")
OKVQA_ANNOTATIONS = Rows("mscoco_val2014_annotations.json", within="annotations")
ROWS = {
    "vqav2": VQA_QUESTIONS,
    "okvqa": Rows("OpenEnded_mscoco_val2014_questions.json", within="questions"),
    "aokvqa": Rows("aokvqa_v1p0_val.json"),
    "aokvqa_mc": Rows("aokvqa_v1p0_val.json"),
    "textvqa": Rows("TextVQA_0.5.1_val.json", within="data"),
    "gqa": Rows("testdev_balanced_questions.json", by_id=True),
    "pope": Rows("coco_pope_popular.json", by_line=True),
    "mmbench": Rows("mmbench_dev_en_20231003.tsv"),
    "mmbench_v11": Rows("MMBench_DEV_EN_V11.tsv"),
    "seedbench": Rows("SEED-Bench.json", within="questions"),
    "mmmu": Rows(MATH),
    "mmmu_open": Rows(MATH),
    "mmvet": Rows("mm-vet.json", by_id=True),
}
COLUMNS = {
    ("vqav2", VQA_QUESTIONS): ("question_id", "image_id", "question"),
    ("vqav2", VQA_ANNOTATIONS): ("question_id", "answers", "answer_type"),
    ("okvqa", ROWS["okvqa"]): ("question_id", "image_id", "question"),
    ("okvqa", OKVQA_ANNOTATIONS): ("question_id", "answers", "question_type"),
    ("aokvqa", ROWS["aokvqa"]): ("question_id", "image_id", "question", "direct_answers", "difficult_direct_answer"),
    ("aokvqa_mc", ROWS["aokvqa"]): ("question_id", "image_id", "question", "choices", "correct_choice_idx"),
    ("textvqa", ROWS["textvqa"]): ("question_id", "image_id", "question", "answers"),
    ("gqa", ROWS["gqa"]): ("imageId", "question", "answer", "types"),
    ("pope", ROWS["pope"]): ("question_id", "image", "text", "label"),
    ("mmbench", ROWS["mmbench"]): ("index", "question", "image", "category", "l2-category"),
    ("seedbench", ROWS["seedbench"]): (
        *("question_id", "question", "answer", "data_id", "data_type", "question_type_id"),
        *("choice_a", "choice_b", "choice_c", "choice_d"),
    ),
    ("mmmu", ROWS["mmmu"]): ("id", "question", "options", "answer", "question_type", "image_1"),
    ("mmmu_open", ROWS["mmmu"]): ("id", "question", "answer", "question_type", "image_1"),
    ("mmvet", ROWS["mmvet"]): ("imagename", "question", "answer", "capability"),
}

UNUSED = {"mme_perception": COGNITION, "mme_cognition": PERCEPTION, "aokvqa": ("000000000073.jpg",)}
"""Files and folders of a fixture that a benchmark does not need."""


@pytest.mark.parametrize("name", NAMES)
def test_each_missing_file_is_named_with_the_cure(name: str, tmp_path: Path) -> None:
    folder = write(name, tmp_path)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    needed = [path for path in files if not any(part in path.parts for part in UNUSED.get(name, ()))]
    for path in needed[::10] if name.startswith("mmmu") else needed:  # some subjects stand for all 30
        content = path.read_bytes()
        path.unlink()
        said = complaint(name, tmp_path)
        assert path.stem in said or path.parent.name in said, path
        assert BENCHMARKS[name].origin in said
        path.write_bytes(content)


def column_cases() -> list[Any]:
    return [
        pytest.param(name, rows, column, id=f"{name}-{rows.file}-{column}")
        for (name, rows), columns in COLUMNS.items()
        for column in columns
    ]


@pytest.mark.parametrize(("name", "rows", "column"), column_cases())
def test_a_missing_column_is_named_with_file_and_row(name: str, rows: Rows, column: str, tmp_path: Path) -> None:
    said = damaged(name, tmp_path, rows, lambda listed: [row.pop(column) for row in listed])
    assert str(tmp_path / name / rows.file) in said and repr(column) in said
    assert any(place in said for place in ("[0]", "[2]", ":1", ":2", "'201307251'", "'v1_0'"))


@pytest.mark.parametrize("name", [name for name, rows in ROWS.items() if not rows.by_id])
def test_an_id_that_comes_twice_is_named_with_both_rows(name: str, tmp_path: Path) -> None:
    rows = ROWS[name]
    folder = write(name, tmp_path)
    rows.change(folder, lambda listed: listed.append(dict(listed[0] if name != "mmmu_open" else listed[2])))
    said = complaint(name, tmp_path)
    assert "appears twice" in said and said.count(str(folder / rows.file)) == 2


@pytest.mark.parametrize("name", [name for name, rows in ROWS.items() if rows.by_id])
def test_a_key_that_comes_twice_is_no_silent_loss(name: str, tmp_path: Path) -> None:
    path = write(name, tmp_path) / ROWS[name].file
    rows = json.loads(path.read_text())
    key = next(iter(rows))
    path.write_text(json.dumps(rows)[:-1] + f', "{key}": {json.dumps(rows[key])}}}')
    assert complaint(name, tmp_path).startswith(f"{path}: {key}: the key is given twice.")


Change = Callable[[list[Row]], object]


def setting(column: str, value: object, row: int = 0) -> Change:
    def change(listed: list[Row]) -> None:
        listed[row][column] = value

    return change


def damages() -> dict[str, tuple[str, Rows, Change, str]]:
    """What -> benchmark, rows, change, what is said."""
    seed, mmbench, mmmu = ROWS["seedbench"], ROWS["mmbench"], ROWS["mmmu"]
    return {
        "annotation without question": (
            *("vqav2", VQA_QUESTIONS, lambda rows: rows.pop()),
            "questions.json has no question_id '73000'. Both files must be of one split",
        ),
        "question without annotation": (
            *("vqav2", VQA_ANNOTATIONS, lambda rows: rows.pop()),
            "annotations.json has no question_id '42000'. Both files must be of one split",
        ),
        "annotated twice": (
            *("okvqa", OKVQA_ANNOTATIONS, lambda rows: rows.append(rows[0])),
            "annotations[3]: question_id '73000' appears twice, before at",
        ),
        "picture of no number": (
            "vqav2",
            VQA_QUESTIONS,
            setting("image_id", "x"),
            "'image_id' must be a whole number",
        ),
        "answers of no annotators": ("vqav2", VQA_ANNOTATIONS, setting("answers", "red"), "must list the annotators'"),
        "answers without texts": ("vqav2", VQA_ANNOTATIONS, setting("answers", [{}]), "must list the annotators'"),
        "empty question": ("textvqa", ROWS["textvqa"], setting("question", " "), "'question' is empty"),
        "answers as a text": ("textvqa", ROWS["textvqa"], setting("answers", "['a']"), "must list the annotators'"),
        "no such option": (
            *("aokvqa_mc", ROWS["aokvqa"], setting("correct_choice_idx", 4)),
            "[0]: the answer 4 is none of the indices 0 to 3",
        ),
        "option below the first": ("aokvqa_mc", ROWS["aokvqa"], setting("correct_choice_idx", -1), "the answer -1"),
        "options as a text": ("aokvqa_mc", ROWS["aokvqa"], setting("choices", "ab"), "'choices' must be a list"),
        "neither yes nor no": (
            "pope",
            ROWS["pope"],
            setting("label", "maybe", row=1),
            ":2: 'label' must be yes or no, found 'maybe'",
        ),
        "letter of SEED-Bench": ("seedbench", seed, setting("answer", "E"), "questions[0]: the answer 'E'"),
        "dimension without a name": (
            "seedbench",
            seed,
            setting("question_type_id", 9),
            "does not name the dimension 9",
        ),
        "SEED-Bench 2": ("seedbench", seed, setting("data_type", "Single Image"), "Is it SEED-Bench 1?"),
        "letter of MMBench": (
            "mmbench",
            mmbench,
            setting("answer", "C"),
            ":2: the answer 'C' is none of the letters A, B",
        ),
        "test split": ("mmbench", mmbench, setting("answer", ""), ":2: no answer. The test split is scored by"),
        "gap in the options": ("mmbench", mmbench, setting("B", ""), "at least two options"),
        "option after a gap": ("mmbench", mmbench, setting("D", "x"), "filled from A on"),
        "lost rotation": (
            *("mmbench", mmbench, lambda rows: rows.pop(3)),
            ":4: question 252 has 3 of 4 rotations of its options",
        ),
        "no rotation": (
            *("mmbench", mmbench, lambda rows: rows.pop(1)),
            ":2: question 241 has 1 of 2 rotations of its options",
        ),
        "no base64": ("mmbench", mmbench, setting("image", "!" * 65), ":2: 'image' is not base64"),
        "picture of no row": ("mmbench_v11", ROWS["mmbench_v11"], setting("image", "9", row=1), "names row '9'"),
        "letter of MMMU": (
            "mmmu",
            mmmu,
            setting("answer", "D"),
            "[0]: the answer 'D' is none of the letters A, B",
        ),
        "options of MMMU": ("mmmu", mmmu, setting("options", "[red"), "'options' must be a list"),
        "options that are no texts": (
            "mmmu",
            mmmu,
            setting("options", "[None, True]"),
            "'options' number 1 must be a text",
        ),
        "unknown subject": ("mmmu", mmmu, setting("id", "validation_Maths_1"), "'validation_Maths_1' is not"),
        "unknown kind": (
            "mmmu",
            mmmu,
            setting("question_type", "essay"),
            "'question_type': Input should be 'multiple-choice' or 'open', found 'essay'",
        ),
        "picture not there": ("mmmu", mmmu, setting("image_2", None, row=1), "[1]: 'image_2' is missing"),
        "capability as a text": ("mmvet", ROWS["mmvet"], setting("capability", "ocr"), "'capability' must be a list"),
        "types without semantic": (
            "gqa",
            ROWS["gqa"],
            setting("types", {"structural": "query"}),
            "'semantic' is missing",
        ),
    }


@pytest.mark.parametrize("what", damages())
def test_a_damaged_row_is_named_by_file_and_place(what: str, tmp_path: Path) -> None:
    name, rows, change, expected = damages()[what]
    said = damaged(name, tmp_path, rows, change)
    assert expected in said
    assert str(tmp_path / name / rows.file) in said


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("vqav2", "[]", "expected an object with a list 'questions', found list"),
        ("vqav2", '{"annotations": []}', "expected an object with a list 'questions', found keys annotations"),
        ("aokvqa", "{}", "expected a list of rows, found dict"),
        ("gqa", "[]", "expected an object of rows by id, found list"),
        ("gqa", '{"1": 2}', "'1': expected an object, found int"),
        ("pope", "\n[]", ":2: expected an object, found list"),
        ("pope", "{", ":1: not valid JSON"),
        ("seedbench", "[]", "expected an object 'question_type'"),
        ("mmmu", "no parquet", "not a parquet file"),
    ],
)
def test_a_file_of_another_form_is_named(name: str, content: str, expected: str, tmp_path: Path) -> None:
    path = write(name, tmp_path) / ROWS[name].file
    path.write_text(content)
    said = complaint(name, tmp_path)
    assert said.startswith(str(path)) and expected in said


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Is it red?\tYes\n", "expected two questions, a line each, found 1"),
        ("Is it red? Yes\nIs it blue?\tNo\n", ":1: expected a question, a tab and Yes or No"),
        ("Is it red?\tYes\nIs it blue?\tPerhaps\n", ":2: 'answer' must be yes or no, found 'Perhaps'"),
    ],
)
def test_questions_of_mme_are_two_lines_with_yes_or_no(content: str, expected: str, tmp_path: Path) -> None:
    path = write("mme", tmp_path) / "OCR/0001.txt"
    path.write_text(content)
    said = complaint("mme", tmp_path)
    assert said.startswith(str(path)) and expected in said


def test_a_picture_of_mme_about_which_nothing_is_asked_is_named(tmp_path: Path) -> None:
    folder = write("mme", tmp_path)
    (folder / "OCR/0002.png").write_bytes((folder / "OCR/0001.png").read_bytes())
    assert f"{folder}/OCR/0002.png: nothing is asked about it: OCR/0002.txt is missing" in complaint("mme", tmp_path)


def test_a_category_of_pope_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    row = {"category": "easy", "question_id": 1, "question": "?", "answer": "yes", "image": {"bytes": b"\x89PNG"}}
    with pytest.raises(Exception, match="row 0: unknown category 'easy'; there are random, popular, adversarial"):
        read_hub_row("pope", row, tmp_path)


def test_a_damaged_picture_is_left_to_the_processor(tmp_path: Path) -> None:
    folder = write("mmbench", tmp_path)
    ROWS["mmbench"].change(folder, setting("image", base64.b64encode(b"no picture " * 9).decode()))
    source = BENCHMARKS["mmbench"].source(tmp_path)
    assert BENCHMARKS["mmbench"].samples(source)[0].media[0]["path"].startswith(str(folder / "unpacked"))
