"""The quickstart's data are real, split as their sources split them, and fit the model that is built beside them."""

import json
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoModelForMultimodalLM, AutoProcessor

from training.config.recipe import load_recipe
from training.data import Collator, MixtureDataset
from training.data.mixture.dataset import read_mixture
from training.data.schema import read_rows
from training.quickstart.build import ModelConfig, build_config, build_model, train_tokenizer, training_texts
from training.quickstart.rows import DEMO_TASKS, MEDIA_FOLDER, QUICKSTART_TASKS, write_data

RECIPE = Path(__file__).parents[2] / "configs" / "quickstart" / "quickstart.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "data"
    return folder, write_data(folder)


def test_all_files_are_written_with_rows_that_the_schema_accepts(data):
    folder, counts = data
    assert counts["vqa_train.jsonl"] == 38575 and counts["vqa_test.jsonl"] == 9673
    assert {name: counts[f"{name}_test.jsonl"] for name in QUICKSTART_TASKS} == {
        "image_kind": 85,
        "spoken_word": 75,
        "sound_kind": 18,
    }
    for name, count in counts.items():
        if not name.startswith("vqa_train"):
            assert len(read_rows(folder / name)) == count


def test_test_media_are_never_shown_in_training(data):
    folder, _ = data

    def media(name):
        rows = map(json.loads, (folder / name).read_text().splitlines())
        return {row["messages"][0]["content"][0]["path"] for row in rows}

    for task in QUICKSTART_TASKS:
        assert not media(f"{task}_train.jsonl") & media(f"{task}_test.jsonl")
    voices = {
        split: {Path(path).stem.split("_", 1)[1] for path in media(f"spoken_word_{split}.jsonl")}
        for split in ("train", "test")
    }
    assert len(voices["test"]) == 3 and not voices["train"] & voices["test"]


def test_rows_have_unique_ids_a_task_and_the_label_as_answer(data):
    folder, counts = data
    for name in counts:
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        assert max(Counter(row["id"] for row in rows).values()) == 1
        own = {name.partition("_train")[0].partition("_test")[0]}
        assert {row["task"] for row in rows} == ({"vqa", "text", *QUICKSTART_TASKS} if "calib" in name else own)
    rows = [json.loads(line) for line in (folder / "image_kind_test.jsonl").read_text().splitlines()]
    assert all(
        row["messages"][0]["content"][0]["path"].split("/")[-1].startswith(row["messages"][-1]["content"])
        for row in rows
    )


def test_the_demo_media_carry_their_licences():
    assert {"README.md", "LICENSES.md"} <= {path.name for path in MEDIA_FOLDER.iterdir()}
    for task in DEMO_TASKS:
        for line in (MEDIA_FOLDER / f"{task}.jsonl").read_text().splitlines():
            row = json.loads(line)
            assert row["license"] and (MEDIA_FOLDER / row["path"]).is_file()


def test_the_recipe_builds_a_model_whose_baseline_has_as_many_active_parameters(data):
    folder, _ = data
    sizes = ModelConfig.model_validate(load_recipe(RECIPE).model)
    tokenizer = train_tokenizer(training_texts(folder), vocab_size=sizes.vocab_size)
    assert len(tokenizer) == sizes.vocab_size
    for text in ("what color is the circle?", "<|im_start|>user\nyes<|im_end|>", "é 9 Ω"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    start, dense = (
        build_config(sizes, tokenizer, width_factor=factor).text_config for factor in (1, sizes.dense_factor)
    )
    assemble = load_recipe(RECIPE).stages["mixed"].start.assemble
    assert dense.intermediate_size == start.intermediate_size * assemble.num_experts_per_tok
    weights = [build_model(build_config(sizes, tokenizer), tokenizer, seed=seed).state_dict() for seed in (0, 0, 1)]
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert (weights[0][name] == weights[1][name]).all() and (weights[0][name] != weights[2][name]).any()


def test_the_built_folders_load_and_take_every_kind_of_row(workspace, make_stage):
    for name in ("start", "start-dense"):
        processor = AutoProcessor.from_pretrained(workspace / name)
        model = AutoModelForMultimodalLM.from_pretrained(workspace / name)
        dataset = MixtureDataset(read_mixture(make_stage().data), seed=0)
        batch = Collator(processor)([dataset[row] for row in range(0, len(dataset), 9)])
        batch.pop("row_ids")
        assert model(**batch).loss.isfinite()


@pytest.mark.parametrize("task", ["text", "image_kind", "spoken_word", "sound_kind"])
def test_conversations_hold_every_question_once_with_its_answer(data, task):
    folder, _ = data

    def pairs(name):
        found = []
        for row in read_rows(folder / f"{name}.jsonl"):
            medium = None
            for question, answer in zip(row.messages[::2], row.messages[1::2], strict=True):
                items = question["content"]
                medium = items[0].get("path", medium)
                found.append((medium, items[-1]["text"], answer["content"]))
        return sorted(found, key=str)

    assert pairs(f"{task}_train_conversations") == pairs(f"{task}_train")


def test_conversations_about_a_picture_ask_one_question_of_every_kind(data):
    folder, _ = data
    single = {
        (
            row["messages"][0]["content"][0]["path"],
            row["messages"][0]["content"][1]["text"],
            row["messages"][1]["content"],
        )
        for row in map(json.loads, (folder / "vqa_train.jsonl").read_text().splitlines())
    }
    shapes = {"circle", "rectangle", "triangle"}

    def kind(question, answer):
        if answer in ("yes", "no"):
            return "shape: yes or no" if shapes & set(question[:-1].split()) else "colour: yes or no"
        return "which shape" if answer in shapes else "which colour"

    kinds, asked = Counter(), set()
    for row in map(json.loads, (folder / "vqa_train_conversations.jsonl").read_text().splitlines()):
        picture = row["messages"][0]["content"][0]["path"]
        turns = [
            (picture, question["content"][-1]["text"], answer["content"])
            for question, answer in zip(row["messages"][::2], row["messages"][1::2], strict=True)
        ]
        assert single.issuperset(turns)
        found = [kind(question, answer) for _, question, answer in turns]
        assert len(set(found)) == len(found)
        kinds.update(found)
        asked.update(turns)
    assert len(kinds) == 4 and min(kinds.values()) > 0.7 * max(kinds.values())
    assert len(asked) > 0.6 * len(single)
