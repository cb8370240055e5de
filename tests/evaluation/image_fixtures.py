"""A few rows of each benchmark of pictures, in its publisher's layout."""

import base64
from collections.abc import Callable
from pathlib import Path

from fixture_files import Row, picture_bytes, write_json, write_lines, write_parquet, write_picture, write_table

from evaluation.tasks.image.mmmu import DISCIPLINES
from evaluation.tasks.image.yes_no import COGNITION, PERCEPTION, POPE_CATEGORIES


def annotation(number: int, answers: str, **further: str) -> Row:
    """Of VQA: answers of ten annotators, a character each: r red, g green, 2 two."""
    names = {"r": "red", "g": "green", "2": "two"}
    listed = [
        {"answer": names[letter], "answer_id": index, "answer_confidence": "yes"}
        for index, letter in enumerate(answers, start=1)
    ]
    return {"question_id": number, "image_id": number // 1000, "answers": listed, **further}


def write_vqa(folder: Path, prefix: str, category: str, kinds: tuple[str, str, str]) -> None:
    """Three questions about two pictures of COCO."""
    asked = {42000: "What colour is it?", 42001: "How many are there?", 73000: "What is it?"}
    questions = [{"question_id": key, "image_id": key // 1000, "question": text} for key, text in asked.items()]
    answers = ("rrrrrrrggg", "2222222222", "gggggrrrrr")
    annotations = [
        annotation(key, letters, **{category: kind}) for key, letters, kind in zip(asked, answers, kinds, strict=True)
    ]
    write_json(folder / f"{prefix}OpenEnded_mscoco_val2014_questions.json", {"info": {}, "questions": questions})
    # annotations need not have the order of the questions
    write_json(folder / f"{prefix}mscoco_val2014_annotations.json", {"info": {}, "annotations": annotations[::-1]})
    for number, colour in ((42, "red"), (73, "green")):
        write_picture(folder / f"val2014/COCO_val2014_{number:012d}.jpg", colour)


def write_vqav2(folder: Path) -> None:
    """VQAv2."""
    write_vqa(folder, "v2_", "answer_type", ("other", "number", "other"))


def write_okvqa(folder: Path) -> None:
    """OK-VQA."""
    write_vqa(folder, "", "question_type", ("one", "four", "one"))


def write_aokvqa(folder: Path) -> None:
    """A-OKVQA: the second question is hard to answer without options."""
    rows = [
        {
            "split": "val",
            "image_id": number,
            "question_id": f"22jbM6gDxdaMaunuzgrs{number}",
            "question": "What fruit has this colour?",
            "choices": ["lime", "cherry", "plum", "lemon"],
            "correct_choice_idx": number % 4,
            "direct_answers": ["cherry"] * 6 + ["tomato"] * 4,
            "difficult_direct_answer": number == 73,
            "rationales": ["It is red."] * 3,
        }
        for number in (42, 73)
    ]
    write_json(folder / "aokvqa_v1p0_val.json", rows)
    for number, colour in ((42, "green"), (73, "red")):
        write_picture(folder / f"coco/val2017/{number:012d}.jpg", colour)


def write_textvqa(folder: Path) -> None:
    """TextVQA."""
    rows = [
        {
            "question": question,
            "image_id": "003a8ae2ef43b901",
            "image_classes": ["Sign"],
            "answers": answers,
            "question_id": number,
            "set_name": "val",
        }
        for number, question, answers in (
            (34602, "what does the SIGN say?", ["stop"] * 8 + ["stop sign", ""]),
            (34603, "what is the number?", ["12"] * 10),
        )
    ]
    write_json(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    write_picture(folder / "train_images/003a8ae2ef43b901.jpg", "red")


def write_gqa(folder: Path) -> None:
    """GQA."""
    rows = {
        "201307251": {
            "imageId": "n161313",
            "question": "Is it red?",
            "answer": "yes",
            "fullAnswer": "Yes, it is red.",
            "isBalanced": True,
            "types": {"detailed": "existAttrTrue", "semantic": "attr", "structural": "verify"},
        },
        "201640614": {
            "imageId": "n161313",
            "question": "Who is wearing the dress?",
            "answer": "woman",
            "fullAnswer": "The woman is wearing a dress.",
            "isBalanced": True,
            "types": {"detailed": "relS", "semantic": "rel", "structural": "query"},
        },
    }
    write_json(folder / "testdev_balanced_questions.json", rows)
    write_picture(folder / "images/n161313.jpg", "red")


def write_pope(folder: Path) -> None:
    """POPE: two questions about one picture in each of the three files."""
    image = "COCO_val2014_000000548882.jpg"
    for category, absent in zip(POPE_CATEGORIES, ("zebra", "chair", "fork"), strict=True):
        rows = [
            {"question_id": 1, "image": image, "text": "Is there a sandwich in the image?", "label": "yes"},
            {"question_id": 2, "image": image, "text": f"Is there a {absent} in the image?", "label": "no"},
        ]
        write_lines(folder / f"coco_pope_{category}.json", rows)
    write_picture(folder / "val2014" / image, "blue")


def write_mme(folder: Path) -> None:
    """MME: a picture of each subtask; artwork and its like keep questions and pictures apart."""
    apart = ("artwork", "celebrity", "landmark", "posters", "scene")
    for subtask in PERCEPTION + COGNITION:
        base = folder / subtask
        write_picture(base / "images/0001.jpg" if subtask in apart else base / "0001.png", "red")
        file = base / "questions_answers_YN/0001.txt" if subtask in apart else base / "0001.txt"
        file.parent.mkdir(exist_ok=True)
        ending = "Please answer yes or no."
        file.write_text(f"Is it red? {ending}\tYes\nIs it blue? {ending}\tNo\n\n", encoding="utf-8")


def mmbench_row(index: int, choices: list[str], answer: str, image: str, hint: str = "") -> Row:
    """A row of MMBench's TSV; missing options are empty cells."""
    letters = dict(zip("ABCD", [*choices, "", ""], strict=False))
    return {
        "index": index,
        "question": "Which colour is it?",
        "hint": hint,
        **letters,
        "answer": answer,
        "category": "attribute_recognition",
        "image": image,
        "source": "made",
        "l2-category": "finegrained_perception (instance-level)",
        "comment": "",
        "split": "dev",
    }


def write_mmbench(path: Path, *, references: bool) -> None:
    """A question of two options and one of four, with all rotations.

    Args:
        path: Of the TSV file.
        references: Whether rotations name the row that has the picture, instead of holding it again.
    """
    green, red = (base64.b64encode(picture_bytes(colour)).decode() for colour in ("green", "red"))
    colours = ["red", "green", "blue", "white"]
    rows = [
        mmbench_row(241, ["green", "red"], "A", green),
        mmbench_row(1000241, ["red", "green"], "B", "241" if references else green),
    ]
    for turn, answer in enumerate("ADCB"):
        turned = colours[turn:] + colours[:turn]
        index = 252 + turn * 1_000_000
        rows.append(mmbench_row(index, turned, answer, red if not (turn and references) else "252", hint="Look."))
    write_table(path, rows)


def write_seedbench(folder: Path) -> None:
    """SEED-Bench: two questions about pictures, one about a video."""

    def row(number: str, kind: str, dimension: int, answer: str, medium: str) -> Row:
        choices = {"choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": "Four"}
        return {
            "answer": answer,
            **choices,
            "data_id": medium,
            "data_type": kind,
            "question": "How many towels are in the image?",
            "question_id": number,
            "question_type_id": dimension,
        }

    questions = [
        row("101669", "image", 5, "A", "1454426_2591111986"),
        row("101670", "image", 1, "D", "1454426_2591111986"),
        row("v1738", "video", 10, "B", "94328.webm"),
    ]
    names = {"Scene Understanding": 1, "Instances Counting": 5, "Action Recognition": 10}
    write_json(folder / "SEED-Bench.json", {"questions": questions, "question_type": names})
    write_picture(folder / "SEED-Bench-image/1454426_2591111986", "green")


def mmmu_row(name: str, question: str, options: list[str], answer: str, *colours: str) -> Row:
    """A row of MMMU's parquet files, with seven columns of pictures."""
    pictures = [{"bytes": picture_bytes(colour), "path": f"{name}.png"} for colour in colours]
    columns = {f"image_{number}": picture for number, picture in enumerate(pictures + [None] * 5, start=1)}
    return {
        "id": name,
        "question": question,
        "options": repr(options),
        "explanation": "",
        **columns,
        "img_type": "['Icons and Symbols']",
        "answer": answer,
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice" if options else "open",
        "subfield": "Colours",
    }


def write_mmmu(folder: Path) -> None:
    """MMMU: a question of each of 30 subjects; further ones of Math are open, or have pictures in between."""
    for subject in (subject for subjects in DISCIPLINES.values() for subject in subjects):
        question = "<image 1> Which colour is it?"
        rows = [mmmu_row(f"validation_{subject}_1", question, ["red", "it's green"], "B", "green")]
        if subject == "Math":
            rows += [
                mmmu_row("validation_Math_2", "Is <image 2> like <image 1>?", ["no", "<image 1>"], "A", "red", "blue"),
                mmmu_row("validation_Math_3", "How many? <image 1>", [], "12", "blue"),
                mmmu_row("validation_Math_4", "What share? <image 1>", [], "['1/2', '0.5']", "blue"),
            ]
        write_parquet(folder / subject / "validation-00000-of-00001.parquet", rows)


def write_mmvet(folder: Path) -> None:
    """MM-Vet."""
    rows = {
        "v1_0": {
            "imagename": "v1_0.png",
            "question": "What is x in the equation?",
            "answer": "-1<AND>-5",
            "imagesource": "made",
            "capability": ["ocr", "math"],
        },
        "v1_1": {
            "imagename": "v1_1.jpg",
            "question": "What is on the desk?",
            "answer": "table lamp <OR> desk lamp",
            "imagesource": "made",
            "capability": ["rec"],
        },
    }
    write_json(folder / "mm-vet.json", rows)
    write_picture(folder / "images/v1_0.png", "red")
    write_picture(folder / "images/v1_1.jpg", "green")


FIXTURES: dict[str, Callable[[Path], None]] = {
    "vqav2": write_vqav2,
    "okvqa": write_okvqa,
    "aokvqa": write_aokvqa,
    "aokvqa_mc": write_aokvqa,
    "textvqa": write_textvqa,
    "gqa": write_gqa,
    "pope": write_pope,
    "mme": write_mme,
    "mme_perception": write_mme,
    "mme_cognition": write_mme,
    "mmbench": lambda folder: write_mmbench(folder / "mmbench_dev_en_20231003.tsv", references=False),
    "mmbench_v11": lambda folder: write_mmbench(folder / "MMBench_DEV_EN_V11.tsv", references=True),
    "seedbench": write_seedbench,
    "mmmu": write_mmmu,
    "mmmu_open": write_mmmu,
    "mmvet": write_mmvet,
}
"""Name of a benchmark -> writes its files below a folder, which is DATA_ROOT/NAME."""
