"""What each image benchmark reads from its publisher's layout."""

from pathlib import Path

import pytest
from benchmark_damage import read, read_hub_row, write
from fixture_files import picture_bytes

from evaluation.errors import EvaluationError
from evaluation.tasks import BENCHMARKS, Sample, ask, image
from evaluation.tasks.choices import LETTERS
from evaluation.tasks.media import UNPACKED

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


def asked(sample: Sample) -> list[str]:
    """What a row asks, pictures as their file names."""
    (message,) = sample.messages
    return [Path(item["path"]).name if item["type"] == "image" else item["text"] for item in message["content"]]


@pytest.mark.parametrize(("name", "pictures"), [("vqav2", "val2014"), ("mmmu", "Math"), ("mme", "OCR")])
def test_folders_may_be_links(name: str, pictures: str, tmp_path: Path) -> None:
    folder = write(name, tmp_path)
    expected = read(name, tmp_path).keys()
    (folder / pictures).rename(tmp_path / "elsewhere")
    (folder / pictures).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert read(name, tmp_path).keys() == expected


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        *((name, SHORT) for name in ("vqav2", "okvqa", "aokvqa", "textvqa", "gqa", "pope", "mme", "mmmu_open")),
        *((name, LETTER) for name in ("aokvqa_mc", "mmbench", "mmbench_v11", "seedbench", "mmmu")),
        ("mmvet", ""),
    ],
)
def test_prompts_are_those_of_llava(name: str, prompt: str, tmp_path: Path) -> None:
    write(name, tmp_path)
    assert BENCHMARKS[name].prompt == prompt
    sample = next(iter(read(name, tmp_path).values()))
    assert asked(sample.with_prompt(BENCHMARKS[name].prompt)) == asked(sample) + [prompt] * bool(prompt)


def test_vqav2_joins_questions_and_annotations_by_question_id(tmp_path: Path) -> None:
    write("vqav2", tmp_path)
    rows = read("vqav2", tmp_path)
    assert list(rows) == ["42000", "42001", "73000"]
    assert asked(rows["42000"]) == ["COCO_val2014_000000000042.jpg", "What colour is it?"]
    assert (rows["42000"].reference, rows["42000"].answers) == ("red", ("red",) * 7 + ("green",) * 3)
    assert (rows["42001"].reference, rows["42001"].categories) == ("two", {"answer_type": "number"})
    assert rows["73000"].reference == "green", "the first of two equally frequent answers"
    assert rows["42000"].cluster == rows["42001"].cluster != rows["73000"].cluster


def test_okvqa_is_read_like_vqav2(tmp_path: Path) -> None:
    write("okvqa", tmp_path)
    rows = read("okvqa", tmp_path)
    assert [row.categories for row in rows.values()] == [{"question_type": kind} for kind in ("one", "four", "one")]
    assert all(len(row.answers) == 10 for row in rows.values())


def test_aokvqa_asks_for_direct_answers_where_they_are_not_hard_and_for_letters_always(tmp_path: Path) -> None:
    write("aokvqa", tmp_path)
    direct, choice = read("aokvqa", tmp_path), read("aokvqa_mc", tmp_path)
    assert list(direct) == ["22jbM6gDxdaMaunuzgrs42"]
    assert list(choice) == ["22jbM6gDxdaMaunuzgrs42", "22jbM6gDxdaMaunuzgrs73"]
    row = direct["22jbM6gDxdaMaunuzgrs42"]
    assert asked(row) == ["000000000042.jpg", "What fruit has this colour?"]
    assert (row.reference, row.answers) == ("cherry", ("cherry",) * 6 + ("tomato",) * 4)
    row = choice["22jbM6gDxdaMaunuzgrs42"]
    assert asked(row)[1] == "What fruit has this colour?\nA. lime\nB. cherry\nC. plum\nD. lemon"
    assert (row.reference, row.choices) == ("C", ("lime", "cherry", "plum", "lemon"))


def test_textvqa_capitalises_questions_and_keeps_empty_answers(tmp_path: Path) -> None:
    write("textvqa", tmp_path)
    rows = read("textvqa", tmp_path)
    assert asked(rows["34602"]) == ["003a8ae2ef43b901.jpg", "What does the sign say?"]
    assert (rows["34602"].reference, rows["34602"].answers[-2:]) == ("stop", ("stop sign", ""))
    assert rows["34602"].cluster == rows["34603"].cluster


def test_gqa_has_one_answer_and_its_types_as_categories(tmp_path: Path) -> None:
    write("gqa", tmp_path)
    rows = read("gqa", tmp_path)
    assert asked(rows["201307251"]) == ["n161313.jpg", "Is it red?"]
    assert (rows["201640614"].reference, rows["201640614"].answers) == ("woman", ("woman",))
    assert rows["201640614"].categories == {"structural": "query", "semantic": "rel"}


def test_pope_tells_its_three_files_apart_and_averages_over_them(tmp_path: Path) -> None:
    write("pope", tmp_path)
    rows = read("pope", tmp_path)
    assert list(rows) == [f"{kind}/{number}" for kind in ("random", "popular", "adversarial") for number in (1, 2)]
    assert asked(rows["popular/2"]) == ["COCO_val2014_000000548882.jpg", "Is there a chair in the image?"]
    assert [row.reference for row in rows.values()] == ["yes", "no"] * 3
    assert rows["popular/1"].categories == {"category": "popular"}
    assert len({row.cluster for row in rows.values()}) == 1
    assert (BENCHMARKS["pope"].average.over, BENCHMARKS["pope"].average.axis) == ("mean", "category")


def test_mme_groups_both_questions_about_a_picture_in_either_form_of_folders(tmp_path: Path) -> None:
    write("mme", tmp_path)
    rows = read("mme", tmp_path)
    assert len(rows) == 28
    assert asked(rows["artwork/0001/1"]) == ["0001.jpg", "Is it red? Please answer yes or no."]
    assert asked(rows["OCR/0001/2"]) == ["0001.png", "Is it blue? Please answer yes or no."]
    assert [rows[f"OCR/0001/{number}"].reference for number in (1, 2)] == ["yes", "no"]
    assert rows["OCR/0001/1"].group == rows["OCR/0001/2"].group == rows["OCR/0001/1"].cluster == "OCR/0001"
    assert rows["OCR/0001/1"].categories == {"subtask": "OCR", "ability": "perception"}
    parts = [len(read(name, tmp_path)) for name in ("mme_perception", "mme_cognition")]
    assert parts == [20, 8]
    assert (BENCHMARKS["mme"].average.over, BENCHMARKS["mme"].average.axis) == ("sum", "subtask")


@pytest.mark.parametrize("above", ["MME_Benchmark", "MME_Benchmark_release_version/MME_Benchmark"])
def test_mme_is_found_in_the_folders_of_its_release(above: str, tmp_path: Path) -> None:
    folder = write("mme", tmp_path / "made")
    (tmp_path / "mme" / above).parent.mkdir(parents=True)
    folder.rename(tmp_path / "mme" / above)
    assert len(read("mme", tmp_path)) == 28


@pytest.mark.parametrize("name", ["mmbench", "mmbench_v11"])
def test_mmbench_groups_the_rotations_of_a_question(name: str, tmp_path: Path) -> None:
    write(name, tmp_path)
    rows = read(name, tmp_path)
    assert list(rows) == ["241", "1000241", "252", "1000252", "2000252", "3000252"]
    assert [row.group for row in rows.values()] == ["241"] * 2 + ["252"] * 4
    assert [row.reference for row in rows.values()] == list("ABADCB")
    assert {row.choices[LETTERS.index(row.reference)] for row in rows.values()} == {"green", "red"}
    assert asked(rows["241"])[1] == "Which colour is it?\nA. green\nB. red"
    assert asked(rows["1000252"])[1] == "Look.\nWhich colour is it?\nA. green\nB. blue\nC. white\nD. red"
    assert rows["252"].categories == {
        "category": "attribute_recognition",
        "l2-category": "finegrained_perception (instance-level)",
    }
    assert Path(rows["1000241"].media[0]["path"]).read_bytes() == picture_bytes("green")
    assert len({row.cluster for row in rows.values()}) == len(list((tmp_path / name / UNPACKED).iterdir())) == 2


def test_seedbench_leaves_out_videos_and_names_dimensions(tmp_path: Path) -> None:
    write("seedbench", tmp_path)
    rows = read("seedbench", tmp_path)
    assert list(rows) == ["101669", "101670"]
    text = "How many towels are in the image?\nA. One\nB. Two\nC. Three\nD. Four"
    assert asked(rows["101669"]) == ["1454426_2591111986", text]
    assert (rows["101670"].reference, rows["101670"].choices) == ("D", ("One", "Two", "Three", "Four"))
    assert rows["101669"].categories == {"dimension": "Instances Counting"}


def test_mmmu_puts_pictures_where_question_and_options_name_them(tmp_path: Path) -> None:
    write("mmmu", tmp_path)
    rows = read("mmmu", tmp_path)
    assert len(rows) == 31
    content = asked(rows["validation_Math_2"])
    assert content[::2] == ["Is ", " like ", "?\nA. no\nB. "]
    pictures = [Path(item["path"]).read_bytes() for item in rows["validation_Math_2"].media]
    assert pictures == [picture_bytes("blue"), picture_bytes("red"), picture_bytes("red")]
    row = rows["validation_Art_Theory_1"]
    assert asked(row)[1] == " Which colour is it?\nA. red\nB. it's green"
    assert (row.reference, row.choices) == ("B", ("red", "it's green"))
    assert row.categories == {"subject": "Art_Theory", "discipline": "Art and Design"}


def test_open_questions_of_mmmu_may_have_several_right_answers(tmp_path: Path) -> None:
    write("mmmu", tmp_path)
    rows = read("mmmu_open", tmp_path)
    assert list(rows) == ["validation_Math_3", "validation_Math_4"]
    assert [row.answers for row in rows.values()] == [("12",), ("1/2", "0.5")]
    assert asked(rows["validation_Math_3"])[0] == "How many? "


def test_mmvet_has_alternatives_and_each_capability_as_an_axis(tmp_path: Path) -> None:
    write("mmvet", tmp_path)
    rows = read("mmvet", tmp_path)
    assert asked(rows["v1_0"]) == ["v1_0.png", "What is x in the equation?"]
    assert [row.answers for row in rows.values()] == [("-1<AND>-5",), ("table lamp", "desk lamp")]
    assert rows["v1_0"].categories == {"math": "needed", "ocr": "needed", "rec": "not needed"}
    judge = BENCHMARKS["mmvet"].judge
    assert judge is not None
    filled = judge.render(Sample("1", ask("q"), "r", ("r",), "1"), "p")
    assert "Question: q\nReference: r\nAnswer: p\n" in filled and '{"grade": a number from 0 to 1}' in filled


def hub_rows() -> dict[str, dict]:
    picture = {"bytes": picture_bytes("red"), "path": "1.png"}
    asked = {"image": picture, "question_id": 7, "question": "What is IT?"}
    ten = ["red"] * 10
    listed = [{"answer": answer, "answer_id": index, "answer_confidence": "yes"} for index, answer in enumerate(ten)]
    return {
        "vqav2": {**asked, "answers": listed, "answer_type": "other"},
        "okvqa": {**asked, "answers": ten, "question_type": "one"},
        "textvqa": {**asked, "answers": ten},
        "aokvqa_mc": {**asked, "question_id": "7", "choices": ["a", "b"], "correct_choice_idx": 1},
        "pope": {**asked, "question_id": "7", "answer": "yes", "category": "popular"},
        "mmbench": {
            **{"image": picture, "index": 7, "question": "What?", "hint": "nan", "answer": "B"},
            **{"A": "a", "B": "b", "C": "nan", "D": None, "category": "x", "l2-category": "y"},
        },
    }


@pytest.mark.parametrize("name", [benchmark.name for benchmark in image.BENCHMARKS if benchmark.hub])
def test_rows_of_the_hub_carry_their_pictures(name: str, tmp_path: Path) -> None:
    sample = read_hub_row(name, hub_rows()[name], tmp_path)
    assert sample.id == ("popular/7" if name == "pope" else "7")
    assert sample.reference in ("red", "B", "yes")
    assert Path(sample.media[0]["path"]).read_bytes() == picture_bytes("red")


def test_pictures_that_the_hub_gives_as_paths_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(picture_bytes("red"))
    row = {**hub_rows()["okvqa"], "image": {"bytes": None, "path": str(tmp_path / "1.png")}}
    sample = read_hub_row("okvqa", row, tmp_path / "none", caches=(tmp_path,))
    assert sample.media == [{"type": "image", "path": str(tmp_path / "1.png")}]
    with pytest.raises(EvaluationError, match=r"row 0: the path .*1\.png' is none below"):
        read_hub_row("okvqa", row, tmp_path / "none", caches=(tmp_path / "other",))


def test_pictures_of_mmbench_may_stand_in_later_rows(tmp_path: Path) -> None:
    write("mmbench", tmp_path)
    before = read("mmbench", tmp_path)
    (file,) = (tmp_path / "mmbench").glob("*.tsv")
    title, *rows = file.read_text().splitlines(keepends=True)
    file.write_text("".join([title, *reversed(rows)]))
    after = read("mmbench", tmp_path)
    assert {row.id: row.media for row in after.values()} == {row.id: row.media for row in before.values()}


def test_hidden_files_of_mme_are_no_questions(tmp_path: Path) -> None:
    write("mme", tmp_path)
    before = read("mme", tmp_path)
    folder = next(path.parent for path in (tmp_path / "mme").rglob("*.txt"))
    for name in (".DS_Store", "._1.txt", "._1.jpg"):
        (folder / name).write_bytes(b"\0")
    assert read("mme", tmp_path).keys() == before.keys()
