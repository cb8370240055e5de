"""A few rows of each benchmark of speech and sounds, in its publisher's layout."""

from collections.abc import Callable
from pathlib import Path

from fixture_files import write_json, write_picture, write_sound, write_table


def _librispeech(part: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for speaker, chapter, lines in (("61", "70968", ["HE BEGAN", "GO ON SIR"]), ("121", "121726", ["ALSO A MAN"])):
            place = folder / "LibriSpeech" / part / speaker / chapter
            names = [f"{speaker}-{chapter}-{number:04d}" for number in range(len(lines))]
            for number, name in enumerate(names):
                write_sound(place / f"{name}.flac", 200 + 50 * number)
            text = "\n".join(f"{name} {words}" for name, words in zip(names, lines, strict=True))
            (place / f"{speaker}-{chapter}.trans.txt").write_text(text + "\n")

    return write


def _mmbench_audio(folder: Path) -> None:
    rows = [
        ("241", "What is it?\nA. a cat\nB. a dog", "A"),
        ("1000241", "What is it?\nA. a dog\nB. a cat", ["B"]),
        ("252", "Which colour?\nA. red\nB. blue\nC. green", "C"),
    ]
    write_json(
        folder / "mmbench_audio.json",
        [
            {
                "question_id": identity,
                "image": f"images/{identity}.png",
                "voice": [f"/home/lab/mmbench/audio/{identity}.wav"],
                "conversations": [
                    {"from": "human", "value": f"<image>\n<audio>\n{text}"},
                    {"from": "gpt", "value": ""},
                ],
                "answer": answer,
            }
            for identity, text, answer in rows
        ],
    )
    for number, (identity, _, _) in enumerate(rows):
        write_picture(folder / f"images/{identity}.png", ("red", "red", "green")[number])
        write_sound(folder / f"audio/{identity}.wav", 300 + 40 * number)


def _race_audio(folder: Path) -> None:
    rows = [
        ("middle/1.wav", "Who came?", ["Ann", "Bob", "Eve", "Tom"], "B"),
        ("high/1.wav", "Why did he go?", ["rain", "work", "home", "school"], "home"),
    ]
    write_json(
        folder / "race_audio.json",
        [
            {"id": f"race{number}", "voice": [f"audio/{voice}"], "text": text, "options": options, "gt": right}
            for number, (voice, text, options, right) in enumerate(rows)
        ],
    )
    for number, (voice, *_) in enumerate(rows):
        write_sound(folder / "audio" / voice, 250 + 30 * number)


def _listening(folder: Path) -> None:
    rows = [
        ("2005_1", "Where are they?", "A. At home.\nB. At school.\nC. In a shop.", "A"),
        ("2005_6", "What is said first?", "A. Hello.\nB. Thanks.\nC. Goodbye.", "C"),
        ("2005_6", "Who is late?", "A. The boy.\nB. The girl.\nC. Nobody.", "B"),
    ]
    write_json(
        folder / "high_exam.json",
        [
            {"voice": [f"audio/{voice}.wav"], "text": f"<audio>\n{question}\n{options}", "gt": right}
            for voice, question, options, right in rows
        ],
    )
    for number, voice in enumerate(("2005_1", "2005_6")):
        write_sound(folder / f"audio/{voice}.wav", 220 + 60 * number)


def _clothoaqa(folder: Path) -> None:
    questions = [
        ("rain.wav", "Is it raining?", ("yes", "Yes", "yes")),
        ("rain.wav", "What is falling?", ("water", "rain", "water")),
        ("bell.wav", "What rings?", ("bell", "bell", "bell")),
    ]
    rows = [
        {"file_name": clip, "QuestionText": question, "answer": answer, "confidence": "yes"}
        for clip, question, answers in questions
        for answer in answers
    ]
    write_table(folder / "clotho_aqa_test.csv", rows)
    write_sound(folder / "audio_files/rain.wav", 300)
    write_sound(folder / "audio_files/bell.wav", 600)


def _clotho(folder: Path) -> None:
    clips = ("A bell, ringing.wav", "rain on a roof.wav")
    rows = [
        {"file_name": clip, **{f"caption_{n}": f"A sound of {clip[:-4]}, take {n}." for n in range(1, 6)}}
        for clip in clips
    ]
    write_table(folder / "clotho_captions_evaluation.csv", rows)
    for number, clip in enumerate(clips):
        write_sound(folder / "evaluation" / clip, 300 + 100 * number)


def _audiocaps(folder: Path) -> None:
    clips = [("7fmOlUlwoNg", 20), ("-6BJ455B1aA", 0)]
    rows = [
        {
            "audiocap_id": 10 * number + clip,
            "youtube_id": name,
            "start_time": start,
            "caption": f"hum {number} of {name}",
        }
        for number in range(5)
        for clip, (name, start) in enumerate(clips)
    ]
    write_table(folder / "test.csv", rows)
    write_sound(folder / "audio/7fmOlUlwoNg_20.wav", 300)
    write_sound(folder / "audio/Y-6BJ455B1aA.flac", 500)


def _mmau(folder: Path) -> None:
    rows = [
        ("3fe6", "Who speaks?", ["Man", "Woman", "Child", "Robot"], "Man", "speech", "easy"),
        ("72fb", "What rings?", ["Bell", "Phone"], "Phone", "sound", "hard"),
        ("6aee", "Which instrument?", ["Harp", "Flute", "Drum"], "flute ", "music", "medium"),
    ]
    keys = ("question", "choices", "answer", "task", "difficulty")
    write_json(
        folder / "mmau-test-mini.json",
        [
            {"id": name, "audio_id": f"./test-mini-audios/{name}.wav", **dict(zip(keys, rest, strict=True))}
            for name, *rest in rows
        ],
    )
    for number, (name, *_) in enumerate(rows):
        write_sound(folder / f"test-mini-audios/{name}.wav", 200 + 100 * number)


FIXTURES: dict[str, Callable[[Path], None]] = {
    "librispeech_test_clean": _librispeech("test-clean"),
    "librispeech_test_other": _librispeech("test-other"),
    "mmbench_audio": _mmbench_audio,
    "race_audio": _race_audio,
    "ehsl_long": _listening,
    "ehsl_short": _listening,
    "clothoaqa": _clothoaqa,
    "clotho_v1": _clotho,
    "clotho_v2": _clotho,
    "audiocaps": _audiocaps,
    "mmau": _mmau,
}
"""Name of a benchmark -> writes its files below a folder, which is DATA_ROOT/NAME."""
