import json
from collections import Counter
from pathlib import Path

import pytest
from task_rows import colour_row, write_rows

from evaluation.errors import EvaluationError
from evaluation.tasks import read_task, sample_rows, shuffle_media


def test_the_last_assistant_turn_is_the_reference_and_is_not_asked(colour_data: Path) -> None:
    sample = read_task(colour_data / "colour_test.jsonl")[0]
    assert sample.reference == "red"
    assert [message["role"] for message in sample.messages] == ["user"]
    assert sample.question == "what colour is it?"


def test_media_paths_are_relative_to_the_data_file(colour_data: Path) -> None:
    sample = read_task(colour_data / "colour_test.jsonl")[0]
    assert sample.media == [{"type": "image", "path": str(colour_data / "media" / "red_0.png")}]


def test_the_prompt_is_appended_to_the_last_user_turn(colour_data: Path) -> None:
    sample = read_task(colour_data / "colour_test.jsonl", prompt="\nOne word.")[0]
    assert sample.messages[-1]["content"][-1] == {"type": "text", "text": "\nOne word."}


def test_rows_about_one_picture_are_one_cluster_unless_the_row_says_otherwise(colour_data: Path) -> None:
    rows = [colour_row(0, "red"), colour_row(2, "red"), {**colour_row(4, "red"), "cluster": "other"}]
    clusters = [sample.cluster for sample in read_task(write_rows(colour_data / "rows.jsonl", rows))]
    assert clusters[0] == clusters[1] != clusters[2] == "other"


def test_rows_of_a_group_without_media_are_one_cluster_and_carry_what_metrics_need(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "which?"}, {"role": "assistant", "content": "B"}]
    row = {"messages": messages, "choices": ["red", "blue"], "group": "q1", "categories": {"subject": "physics"}}
    first, second = read_task(write_rows(tmp_path / "rows.jsonl", [row, row]))
    assert first.choices == ("red", "blue") and first.categories == {"subject": "physics"}
    assert first.group == second.group == first.cluster == second.cluster == "q1"


def test_a_group_is_one_cluster_whatever_its_media(colour_data: Path) -> None:
    rows = [{**colour_row(number, "red"), "group": "q1"} for number in range(2)]
    first, second = read_task(write_rows(colour_data / "rows.jsonl", rows))
    assert first.media != second.media and first.cluster == second.cluster == "q1"


def test_files_of_tasks_are_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    text = '{"messages": [{"role": "user", "content": "caf\u00e9?"}, {"role": "assistant", "content": "yes"}]}'
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8-sig")
    assert read_task(path)[0].question == "caf\u00e9?"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(EvaluationError, match=r"rows\.jsonl:1: not UTF-8: the byte 0xe9"):
        read_task(path)


def test_a_limit_keeps_groups_whole(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "yes"}]
    rows = [{"messages": messages, "group": str(number // 3)} for number in range(30)]
    chosen = sample_rows(read_task(write_rows(tmp_path / "rows.jsonl", rows)), 10, seed=0)
    assert len(chosen) == 12 and set(Counter(sample.group for sample in chosen).values()) == {3}


def test_earlier_turns_and_frames_of_a_clip_are_kept(colour_data: Path) -> None:
    frames = ["media/red_0.png", "media/red_1.png"]
    content = [{"type": "video", "video": frames}, {"type": "text", "text": "hi"}]
    row = colour_row(0, "red")
    row["messages"] = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "hello"},
        *row["messages"],
    ]
    sample = read_task(write_rows(colour_data / "rows.jsonl", [row]))[0]
    assert len(sample.messages) == 3
    assert sample.media[0]["path"] == [str(colour_data / frame) for frame in frames]


def broken_rows() -> dict[str, tuple[dict, str]]:
    def row(**changes: object) -> dict:
        return {**colour_row(0, "red"), **changes}

    user = {"role": "user", "content": "hi"}
    answer = {"role": "assistant", "content": "red"}
    return {
        "no messages": (row(messages=None), "expected an object with a list of `messages`"),
        "no reference": (row(messages=[user]), "last message must be the assistant"),
        "empty reference": (row(messages=[user, {"role": "assistant", "content": " "}]), "is empty"),
        "no question": (row(messages=[answer]), "no user message"),
        "role": (row(messages=[{"role": "usr", "content": ""}, answer]), "Did you mean 'user'"),
        "kind": (row(messages=[{"role": "user", "content": [{"type": "imag"}]}, answer]), "Did you mean 'image'"),
        "no medium": (
            row(messages=[{"role": "user", "content": [{"type": "image"}]}, answer]),
            "the item has no medium",
        ),
        "no file": (colour_row(0, "pink"), "messages[0].content[0].path: there is no file"),
        "answers": (row(answers="red"), "'answers' must be a list of strings"),
        "choices": (row(choices=["red", 1]), "'choices' must be a list of strings"),
        "group": (row(group=["a"]), "'group' must be a string"),
        "categories": (row(categories=["colour"]), "'categories' must be an object of strings"),
    }


@pytest.mark.parametrize("name", broken_rows())
def test_a_broken_row_is_named_by_file_and_line(colour_data: Path, name: str) -> None:
    row, problem = broken_rows()[name]
    path = write_rows(colour_data / "rows.jsonl", [{**colour_row(1, "red"), "id": "first"}, row])
    with pytest.raises(EvaluationError) as error:
        read_task(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert problem in str(error.value)


def test_broken_json_and_double_ids_are_named_by_line(colour_data: Path) -> None:
    path = colour_data / "rows.jsonl"
    path.write_text(json.dumps(colour_row(0, "red")) + "\n{broken\n")
    with pytest.raises(EvaluationError, match=r"rows\.jsonl:2: not valid JSON"):
        read_task(path)
    write_rows(path, [colour_row(0, "red"), colour_row(0, "red")])
    with pytest.raises(EvaluationError, match=r"rows\.jsonl:2: id 'row0' appears twice"):
        read_task(path)
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_task(colour_data / "none.jsonl")


def test_a_limit_keeps_a_seeded_random_sample_in_order(colour_data: Path) -> None:
    samples = read_task(colour_data / "colour_test.jsonl")
    chosen = sample_rows(samples, 4, seed=1)
    assert chosen == sample_rows(samples, 4, seed=1) != sample_rows(samples, 4, seed=2)
    assert chosen == sorted(chosen, key=samples.index)
    assert sample_rows(samples, 100, seed=0) == samples


@pytest.mark.parametrize("seed", range(5))
def test_shuffling_leaves_no_row_its_own_medium_and_keeps_all_media(colour_data: Path, seed: int) -> None:
    rows = [colour_row(i, name) for name in ("red", "green", "blue") for i in range(2)]
    rows = [
        {**row, "id": str(number)} for number, row in enumerate([*rows, *rows])
    ]  # two questions about each picture
    samples = read_task(write_rows(colour_data / "rows.jsonl", rows))
    shuffled = shuffle_media(samples, seed=seed)
    for before, after in zip(samples, shuffled, strict=True):
        assert after.media != before.media
        assert (after.id, after.reference, after.question) == (before.id, before.reference, before.question)
    assert sorted(str(sample.media) for sample in shuffled) == sorted(str(sample.media) for sample in samples)


def test_rows_exchange_media_of_the_same_kinds_or_single_ones_if_no_other_row_has_them(colour_data: Path) -> None:
    samples = read_task(colour_data / "colour_test.jsonl")
    pair = colour_row(9, "red")
    pair["messages"][0]["content"].insert(0, {"type": "image", "path": "media/blue_0.png"})
    lonely = read_task(write_rows(colour_data / "rows.jsonl", [pair]))
    *others, alone = shuffle_media([*samples, *lonely], seed=0)
    assert others == shuffle_media(samples, seed=0)
    own = [str(item) for item in lonely[0].media]
    assert len(alone.media) == 2 and not set(own) & {str(item) for item in alone.media}
    with pytest.raises(EvaluationError, match="no other row has the medium image"):
        shuffle_media(lonely, seed=0)


def test_rows_without_media_stay_as_they_are(colour_data: Path) -> None:
    row = {"id": "t", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
    samples = read_task(write_rows(colour_data / "rows.jsonl", [row]))
    assert shuffle_media(samples, seed=0) == samples
