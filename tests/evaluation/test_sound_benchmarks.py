"""Each benchmark of speech, sound and video is read as its publisher lays it out."""

from pathlib import Path

import pytest
from benchmark_damage import read, read_fixture, write
from fixture_files import write_json

from evaluation.tasks import BENCHMARKS, Sample, ask

TALK = ("61-70968-0000", "61-70968-0001", "121-121726-0000")
VIDEOMME = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
)


EXPECTED: dict[str, list[tuple[str, str, str]]] = {
    "librispeech_test_clean": [
        ("121-121726-0000", "", "ALSO A MAN"),
        ("61-70968-0000", "", "HE BEGAN"),
        ("61-70968-0001", "", "GO ON SIR"),
    ],
    "mmbench_audio": [
        ("241", "What is it?\nA. a cat\nB. a dog", "A"),
        ("1000241", "What is it?\nA. a dog\nB. a cat", "B"),
        ("252", "Which colour?\nA. red\nB. blue\nC. green", "C"),
    ],
    "race_audio": [
        ("race0", "Who came?\nA. Ann\nB. Bob\nC. Eve\nD. Tom", "B"),
        ("race1", "Why did he go?\nA. rain\nB. work\nC. home\nD. school", "C"),
    ],
    "ehsl_long": [
        ("1", "What is said first?\nA. Hello.\nB. Thanks.\nC. Goodbye.", "C"),
        ("2", "Who is late?\nA. The boy.\nB. The girl.\nC. Nobody.", "B"),
    ],
    "ehsl_short": [("0", "Where are they?\nA. At home.\nB. At school.\nC. In a shop.", "A")],
    "clothoaqa": [
        ("rain.wav: Is it raining?", "Is it raining?", "yes"),
        ("bell.wav: What rings?", "What rings?", "bell"),
    ],
    "clotho_v1": [
        ("A bell, ringing.wav", "", "A sound of A bell, ringing, take 1."),
        ("rain on a roof.wav", "", "A sound of rain on a roof, take 1."),
    ],
    "audiocaps": [
        ("7fmOlUlwoNg_20", "", "hum 0 of 7fmOlUlwoNg"),
        ("-6BJ455B1aA_0", "", "hum 0 of -6BJ455B1aA"),
    ],
    "mmau": [
        ("3fe6", "Who speaks?\nA. Man\nB. Woman\nC. Child\nD. Robot", "A"),
        ("72fb", "What rings?\nA. Bell\nB. Phone", "B"),
        ("6aee", "Which instrument?\nA. Harp\nB. Flute\nC. Drum", "B"),
    ],
    "msvd_qa": [("1", "who is slicing a carrot?", "woman"), ("2", "what is cut?", "carrot"), ("3", "is it?", "yes")],
    "activitynet_qa": [
        ("v_1QIUV7WYKXg_3", "Is the athlete wearing trousers?", "no"),
        ("v_1QIUV7WYKXg_7", "What does the man hold?", "a Ball"),
        ("v_-9eniCub7u_2", "How many people are there?", "2"),
    ],
    "videomme": [
        (
            f"001-{number}",
            f"{VIDEOMME}letter (A, B, C, or D) of the correct option.\nWhat is shown?\nA. Apples.\nB. Candles.\n"
            "C. Berries.\nD. The three kinds are equal.",
            letter,
        )
        for number, letter in ((1, "C"), (2, "A"))
    ],
    "omnibench": [
        (
            str(number),
            f"Question:\n{question}\n\nOptions:\nA. Eating.\nB. Sleeping.\nC. Reading.\nD. Running.\n",
            "C",
        )
        for number, question in enumerate(("What are they doing?", "What is heard?"))
    ],
    "worldsense": [
        (f"{video}/{task}", f"{question}\nA. A bell.\nB. A dog.\nC. A car.\nD. Rain.", letter)
        for video, task, question, letter in (
            ("abcd", "task0", "What is heard first?", "B"),
            ("abcd", "task1", "What is heard last?", "D"),
            ("efgh", "task0", "What barks?", "B"),
        )
    ],
}
EXPECTED["librispeech_test_other"] = EXPECTED["librispeech_test_clean"]
EXPECTED["clotho_v2"] = EXPECTED["clotho_v1"]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_ids_questions_and_references_are_those_of_the_files(name: str, tmp_path: Path) -> None:
    assert [(row.id, row.question, row.reference) for row in read_fixture(name, tmp_path)] == EXPECTED[name]


def test_mvbench_reads_twenty_subsets_with_bracketed_options(tmp_path: Path) -> None:
    samples = read_fixture("mvbench", tmp_path)
    assert len({sample.categories["subset"] for sample in samples}) == len(samples) == 20
    assert samples[0].id == "action_antonym/0"
    assert samples[0].question == "Question:What of action_antonym?\nOption:\n(A) no\n(B) yes"
    assert {sample.reference for sample in samples} == {"B"}
    assert BENCHMARKS["mvbench"].average.over == "mean" and BENCHMARKS["mvbench"].average.axis == "subset"


CHOICES: dict[str, tuple[str, ...]] = {
    "mmbench_audio": ("a cat", "a dog"),
    "race_audio": ("Ann", "Bob", "Eve", "Tom"),
    "ehsl_long": ("Hello.", "Thanks.", "Goodbye."),
    "mmau": ("Man", "Woman", "Child", "Robot"),
    "mvbench": ("no", "yes"),
    "videomme": ("Apples.", "Candles.", "Berries.", "The three kinds are equal."),
    "omnibench": ("Eating.", "Sleeping.", "Reading.", "Running."),
    "worldsense": ("A bell.", "A dog.", "A car.", "Rain."),
}


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_choices_are_the_texts_of_the_options_without_letters(name: str, tmp_path: Path) -> None:
    sample = read_fixture(name, tmp_path)[0]
    assert sample.choices == CHOICES[name]
    assert sample.answers == (sample.reference,)


CATEGORIES: dict[str, list[dict[str, str]]] = {
    "race_audio": [{"level": "middle"}, {"level": "high"}],
    "clothoaqa": [{"answer": "yes or no"}, {"answer": "word"}],
    "mmau": [
        {"task": "speech", "difficulty": "easy"},
        {"task": "sound", "difficulty": "hard"},
        {"task": "music", "difficulty": "medium"},
    ],
    "msvd_qa": [{"question": "who"}, {"question": "what"}, {"question": "other"}],
    "activitynet_qa": [{"type": "yes or no"}, {"type": "object"}, {"type": "number"}],
    "videomme": [{"duration": "short", "domain": "Knowledge"}, {"duration": "long", "domain": "Multilingual"}],
    "omnibench": [
        {"task": "Action and Activity", "audio": "speech"},
        {"task": "Story Description", "audio": "sound event"},
    ],
    "worldsense": [{"domain": "Music", "task": "Audio Recognition"}] * 3,
}


@pytest.mark.parametrize("name", sorted(CATEGORIES))
def test_categories_are_those_that_the_publisher_tells_apart(name: str, tmp_path: Path) -> None:
    assert [dict(sample.categories) for sample in read_fixture(name, tmp_path)] == CATEGORIES[name]


KINDS: dict[str, list[list[str]]] = {
    "librispeech_test_clean": [["speech"]] * 3,
    "mmbench_audio": [["image", "speech"]] * 3,
    "race_audio": [["speech"]] * 2,
    "ehsl_short": [["speech"]],
    "clothoaqa": [["audio"]] * 2,
    "clotho_v1": [["audio"]] * 2,
    "audiocaps": [["audio"]] * 2,
    "mmau": [["speech"], ["audio"], ["audio"]],
    "msvd_qa": [["video"]] * 3,
    "omnibench": [["speech", "image"], ["audio", "image"]],
    "worldsense": [["video"]] * 3,
}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_spoken_language_goes_through_the_speech_encoder_and_other_sounds_do_not(name: str, tmp_path: Path) -> None:
    assert [[item["type"] for item in sample.media] for sample in read_fixture(name, tmp_path)] == KINDS[name]


def test_utterances_of_one_speaker_are_one_cluster(tmp_path: Path) -> None:
    clusters = {sample.id: sample.cluster for sample in read_fixture("librispeech_test_clean", tmp_path)}
    assert [clusters[utterance] for utterance in TALK] == ["61", "61", "121"]


def test_rotations_of_a_question_are_one_group_and_one_cluster(tmp_path: Path) -> None:
    samples = read_fixture("mmbench_audio", tmp_path)
    assert [sample.group for sample in samples] == [sample.cluster for sample in samples] == ["241", "241", "252"]
    assert BENCHMARKS["mmbench_audio"].metric == "circular"


@pytest.mark.parametrize(
    "written",
    [
        {"options": ["Ann", "Bob", "7"]},
        {"options": "['Ann', 'Bob', 7]"},
        {"A": "Ann", "B": "Bob", "C": 7, "D": "nan"},
        {"text": "Who came?\nA. Ann\nB. Bob\nC. 7"},
    ],
)
def test_options_of_uni_moe_are_a_list_or_columns_or_lines(written: dict[str, object], tmp_path: Path) -> None:
    write("race_audio", tmp_path)
    row = {"voice": "audio/middle/1.wav", "text": "Who came?", "gt": "C", **written}
    write_json(tmp_path / "race_audio/race_audio.json", [row])
    (sample,) = read("race_audio", tmp_path).values()
    assert sample.choices == ("Ann", "Bob", "7") and sample.question == "Who came?\nA. Ann\nB. Bob\nC. 7"


@pytest.mark.parametrize("name", ["clotho_v1", "clotho_v2", "audiocaps"])
def test_captioned_clips_have_five_references(name: str, tmp_path: Path) -> None:
    assert all(
        len(set(sample.answers)) == 5 and sample.answers[0] == sample.reference
        for sample in read_fixture(name, tmp_path)
    )


def test_questions_on_which_annotators_differ_are_left_out_and_the_note_says_so(tmp_path: Path) -> None:
    assert "What is falling?" not in [sample.question for sample in read_fixture("clothoaqa", tmp_path)]
    assert "left out" in BENCHMARKS["clothoaqa"].note


@pytest.mark.parametrize("name", ["msvd_qa", "activitynet_qa"])
def test_free_answers_about_video_may_be_judged_with_all_that_a_judge_needs(name: str) -> None:
    judge = BENCHMARKS[name].judge
    assert judge is not None
    asked = judge.render(Sample("1", ask("who?"), "a man", ("a man",), "1"), "a boy")
    assert all(part in asked for part in ("who?", "a man", "a boy", '"score": a number from 0 to 5'))
