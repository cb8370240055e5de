"""Local files for built-in tasks of lmms-eval: a few rows of the quickstart's test data, in the columns they expect.

    python tests/integrations/lmms_tasks.py DATA OUT LMMS_EVAL

DATA is the quickstart's folder of data, LMMS_EVAL the installed package. OUT gets a parquet file and a YAML for each
task, and films in the place where Video-MME looks: run lmms-eval with `--include_path OUT` and HF_HOME=OUT/hub.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from films import write_film

ROWS = 24
BUILT_IN = {
    "vqa": ("vqav2/vqav2_val.yaml", "validation"),
    "pope": ("pope/pope.yaml", "test"),
    "asr": ("librispeech/librispeech_test_clean.yaml", "librispeech_test_clean"),
    "sound": ("clotho_aqa/clotho_aqa_test.yaml", "clotho_aqa_test_filtered"),
    "film": ("videomme/videomme.yaml", "test"),
    "caption": ("flickr30k/flickr30k_test.yaml", "test"),
    "choice": ("seedbench/seedbench_ppl.yaml", "test"),
}
"""Our name -> YAML of the built-in task below `lmms_eval/tasks`, and its split."""
SIMPLE = ("unimoe_choice",)
"""Tasks that compare likelihoods, which lmms-eval asks of simple models alone."""
GENERATION = {name: {"min_new_tokens": 4} for name in ("asr", "sound", "film", "caption")}
"""A model that is hardly trained has nothing to say about most media; made to, it shows what it took in."""
METADATA = {"asr": {"sound": "speech"}, "sound": {"sound": "audio"}}


def write_tasks(data: Path, out: Path, package: Path) -> dict[str, list[dict[str, Any]]]:
    """Write all tasks.

    Args:
        data: Folder of the quickstart's `*_test.jsonl`.
        out: For parquet files, YAMLs and films.
        package: Folder of `lmms_eval`.

    Returns:
        Name of the task -> its rows.
    """
    from datasets import Audio, Dataset, Image, List

    rows = {
        "unimoe_vqa": list(vqa_rows(data)),
        "unimoe_pope": list(pope_rows(data)),
        "unimoe_asr": list(sound_rows(data, "spoken_word")),
        "unimoe_sound": list(sound_rows(data, "sound_kind")),
        "unimoe_film": list(film_rows(out / "hub/videomme/data")),
        "unimoe_caption": list(caption_rows(data)),
        "unimoe_choice": list(choice_rows(data)),
    }
    for task, task_rows in rows.items():
        table = Dataset.from_list(task_rows)
        for column, feature in (("image", Image()), ("images", List(Image())), ("audio", Audio())):
            if column in table.column_names:
                table = table.cast_column(column, feature)
        table = table.rename_columns({"images": "image"} if "images" in table.column_names else {})
        table.to_parquet(out / f"{task}.parquet")
        name = task.removeprefix("unimoe_")
        built_in, split = BUILT_IN[name]
        config: dict[str, Any] = {
            "task": task,
            "include": str(package / "tasks" / built_in),
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(out / f"{task}.parquet")}},
        }
        if task not in SIMPLE:
            config["generation_kwargs"] = {"max_new_tokens": 8, "do_sample": False, **GENERATION.get(name, {})}
        if name in METADATA:
            config["metadata"] = METADATA[name]
        (out / f"{task}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return rows


def vqa_rows(data: Path) -> Iterator[dict[str, Any]]:
    """Questions with ten annotators, of whom 0 to 10 say what the quickstart says."""
    for number, (medium, question, answer) in enumerate(read(data, "vqa", ROWS)):
        agree = 10 - number % 11
        said = [answer] * agree + [f"The {answer}s, two"] * (10 - agree)
        annotators = [
            {"answer": text, "answer_confidence": "yes", "answer_id": place + 1} for place, text in enumerate(said)
        ]
        columns = {"question": question, "question_id": number, "answer": answer, "answers": annotators}
        yield {"image": file(medium), **columns}


def pope_rows(data: Path) -> Iterator[dict[str, Any]]:
    """Questions whose answer is yes or no."""
    asked = (row for row in read(data, "vqa", 1000) if row[2] in ("yes", "no"))
    for number, (medium, question, answer) in zip(range(ROWS), asked, strict=False):
        columns = {"question": question, "question_id": str(number), "answer": answer, "category": "random"}
        yield {"image": file(medium), **columns}


def sound_rows(data: Path, name: str) -> Iterator[dict[str, Any]]:
    """Words in transcripts that a normaliser has something to do with, and sounds with their names."""
    for number, (medium, question, answer) in enumerate(read(data, name, ROWS)):
        spoken = (answer, f"yes {answer}, yes", f"Mr. {answer}'s colour was twenty-three, uh")[number % 3]
        columns = {"gt": spoken, "source": "quickstart", "task": "asr_en", "question": question, "answer": answer}
        yield {"audio": {**file(medium), "path": f"{number}{Path(medium).suffix}"}, **columns}


def film_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Films that become brighter or darker."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(6):
        shades = [30 * frame for frame in range(8)]
        write_film(folder / f"film{number}.mp4", shades[:: -1 if number % 2 else 1])
        yield {
            "videoID": f"film{number}",
            "question_id": str(number),
            "question": "What becomes of the picture?",
            "options": ["A. brighter", "B. darker", "C. red", "D. nothing"],
            "answer": "B" if number % 2 else "A",
            "duration": "short",
            "domain": "Knowledge",
            "sub_category": "Astronomy",
            "task_type": "Temporal Perception",
        }


def caption_rows(data: Path) -> Iterator[dict[str, Any]]:
    """Pictures with what they show, said in three ways."""
    for number, (medium, _, answer) in enumerate(read(data, "image_kind", ROWS)):
        captions = [f"a picture of {answer}", f"this is {answer}", answer]
        yield {"image": file(medium), "caption": captions, "img_id": str(number), "answer": captions[0]}


def choice_rows(data: Path) -> Iterator[dict[str, Any]]:
    """Pictures with four options of what they show."""
    kinds = sorted({answer for _, _, answer in read(data, "image_kind", 1000)})
    for number, (medium, question, answer) in enumerate(read(data, "image_kind", ROWS)):
        others = [kind for kind in kinds if kind != answer]
        options = [*others[: number % 4], answer, *others[number % 4 :]][:4]
        columns = {f"choice_{letter}": option for letter, option in zip("abcd", options, strict=True)}
        columns |= {
            "question": question,
            "answer": "ABCD"[number % 4],
            "question_id": str(number),
            "data_type": "image",
        }
        yield {"images": [file(medium)], **columns}


def read(data: Path, name: str, limit: int) -> Iterator[tuple[str, str, str]]:
    """Path of the medium, question and answer of the first rows of a task."""
    with (data / f"{name}_test.jsonl").open(encoding="utf-8") as lines:
        for _, line in zip(range(limit), lines, strict=False):
            asked, answered = json.loads(line)["messages"]
            (medium,) = (item["path"] for item in asked["content"] if item["type"] != "text")
            question = " ".join(item["text"] for item in asked["content"] if item["type"] == "text")
            yield str((data / medium).resolve()), question, answered["content"]


def file(path: str) -> dict[str, Any]:
    """A file as `datasets` keeps it in a table."""
    return {"bytes": Path(path).read_bytes(), "path": Path(path).name}


def command(python: str, model: Path, tasks: Sequence[str], out: Path, *, results: Path, batch_size: int) -> list[str]:
    """lmms-eval on some of the tasks in `out`; its results are written below `results`."""
    options = {
        "--model": "unimoe",
        "--model_args": f"pretrained={model},dtype=float32",
        "--tasks": ",".join(tasks),
        "--batch_size": str(batch_size),
        "--include_path": str(out),
        "--output_path": str(results),
    }
    flags = ["--log_samples", *(["--force_simple"] if set(tasks) <= set(SIMPLE) else [])]
    return [python, "-m", "lmms_eval", "eval", *(word for pair in options.items() for word in pair), *flags]


if __name__ == "__main__":
    write_tasks(*map(Path, sys.argv[1:4]))
