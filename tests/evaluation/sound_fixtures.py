"""A few rows of each benchmark of speech, sound and video, in its publisher's layout, with real short media."""

import csv
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from films import write_film
from PIL import Image

from evaluation.tasks.video.mvbench import FOLDERS

RATE = 16_000


def write_sound(path: Path, pitch: int = 440, *, seconds: float = 0.3) -> None:
    """A tone, by the path's ending a WAV, FLAC or MP3 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * RATE)) / RATE
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * pitch * times), RATE)


def write_picture(path: Path, colour: str = "red") -> None:
    """A square of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 24), colour).save(path)


def write_clip(path: Path, shade: int = 100, *, sound: bool = False) -> None:
    """A film of 4 frames, with or without a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_film(path.suffix, shade, sound))


@cache
def _film(suffix: str, shade: int, sound: bool) -> bytes:
    """Encoded once: hundreds of tests write the same films."""
    tone = 0.4 * np.sin(np.arange(RATE // 2) / 5) if sound else None
    with TemporaryDirectory() as folder:
        shades = [shade, shade + 20, shade + 40, shade + 60]
        return write_film(Path(folder) / f"film{suffix}", shades, sound=tone).read_bytes()


def write_json(path: Path, content: Any) -> None:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A CSV file with the columns of its first row."""
    listed = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(listed[0]))
        writer.writeheader()
        writer.writerows(listed)


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
    write_csv(folder / "clotho_aqa_test.csv", rows)
    write_sound(folder / "audio_files/rain.wav", 300)
    write_sound(folder / "audio_files/bell.wav", 600)


def _clotho(folder: Path) -> None:
    clips = ("A bell, ringing.wav", "rain on a roof.wav")
    rows = [
        {"file_name": clip, **{f"caption_{n}": f"A sound of {clip[:-4]}, take {n}." for n in range(1, 6)}}
        for clip in clips
    ]
    write_csv(folder / "clotho_captions_evaluation.csv", rows)
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
    write_csv(folder / "test.csv", rows)
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


def _msvd_qa(folder: Path) -> None:
    rows = [
        (1, 1301, "who is slicing a carrot?", "woman"),
        (2, 1301, "what is cut?", "carrot"),
        (3, 9, "is it?", "yes"),
    ]
    write_json(
        folder / "test_qa.json",
        [
            {"id": identity, "video_id": video, "question": question, "answer": answer}
            for identity, video, question, answer in rows
        ],
    )
    (folder / "youtube_mapping.txt").write_text("mv89psg6zh4_33_46 vid9\n-4wsuPCjDBc_5_15 vid1301\n")
    write_clip(folder / "YouTubeClips/mv89psg6zh4_33_46.avi", 40)
    write_clip(folder / "YouTubeClips/-4wsuPCjDBc_5_15.avi", 120)


def _activitynet_qa(folder: Path) -> None:
    rows = [
        ("1QIUV7WYKXg", 3, "is the athlete wearing trousers", "no", 3),
        ("1QIUV7WYKXg", 7, "what does the man hold", "a Ball", 5),
        ("-9eniCub7u", 2, "how many people are there", "2", 7),
    ]
    asked = [
        {"video_name": video, "question": question, "question_id": f"v_{video}_{number}"}
        for video, number, question, _, _ in rows
    ]
    answers = [
        {"answer": answer, "type": kind, "question_id": f"v_{video}_{number}"}
        for video, number, _, answer, kind in rows
    ]
    write_json(folder / "test_q.json", asked)
    write_json(folder / "test_a.json", answers[::-1])
    write_clip(folder / "all_test/v_1QIUV7WYKXg.mp4", 60)
    write_clip(folder / "all_test/v_-9eniCub7u.mkv", 90)


def _mvbench(folder: Path) -> None:
    for number, (subset, place) in enumerate(FOLDERS.items()):
        rows = [
            {"video": f"{subset}.mp4", "question": f"What of {subset}?", "candidates": ["no", "yes"], "answer": "yes"}
        ]
        write_json(folder / f"json/{subset}.json", rows)
        spare = "data0613/" if subset == "moving_count" else ""
        write_clip(folder / f"{spare}{place}/{subset}.mp4", 10 + 5 * number)


def _videomme(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {
            "video_id": "001",
            "duration": duration,
            "domain": domain,
            "sub_category": "Astronomy",
            "url": f"https://www.youtube.com/watch?v={video}",
            "videoID": video,
            "question_id": f"001-{number}",
            "task_type": "Counting Problem",
            "question": "What is shown?",
            "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. The three kinds are equal."],
            "answer": answer,
        }
        for number, (video, duration, domain, answer) in enumerate(
            [("fFjv93ACGo8", "short", "Knowledge", "C"), ("N1cdUjctpG8", "long", "Multilingual", "A")], start=1
        )
    ]
    path = folder / "videomme/test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    write_clip(folder / "data/fFjv93ACGo8.mp4", 30, sound=True)
    write_clip(folder / "data/N1cdUjctpG8.mkv", 80)


def _omnibench(folder: Path) -> None:
    rows = [
        ("ring.mp3", "people.png", "Action and Activity", "speech", "What are they doing?"),
        ("wind.mp3", "hill.jpg", "Story Description", "Sound Event", "What is heard?"),
    ]
    lines = [
        json.dumps(
            {
                "task type": task,
                "audio type": kind,
                "question": question,
                "audio content": "",
                "image content": "",
                "audio_path": sound,
                "image_path": picture,
                "index": index,
                "answer": "Reading.",
                "options": ["Eating.", "Sleeping.", "Reading.", "Running."],
            }
        )
        for index, (sound, picture, task, kind, question) in enumerate(rows)
    ]
    path = folder / "dataset/batch-5_1142_20240817.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for number, (sound, picture, *_) in enumerate(rows):
        write_sound(folder / "mm_data/audio" / sound, 300 + 50 * number)
        write_picture(folder / "mm_data/image" / picture, ("red", "blue")[number])


def _worldsense(folder: Path) -> None:
    def task(question: str, right: str) -> dict[str, Any]:
        return {
            "task_domain": "Recognition",
            "task_type": "Audio Recognition",
            "question": question,
            "answer": right,
            "candidates": ["A. A bell.", "B. A dog.", "C. A car.", "D. Rain."],
        }

    def video(**tasks: dict[str, Any]) -> dict[str, Any]:
        about = {
            "video_id": "x",
            "duration": "<1min",
            "domain": "Music",
            "sub_category": "Piano",
            "audio_class": ["Event"],
        }
        return {**about, "video_caption": "A room.", **tasks}

    content = {
        "abcd": video(task0=task("What is heard first?", "B"), task1=task("What is heard last?", "D")),
        "efgh": video(task0=task("What barks?", "B")),
    }
    write_json(folder / "worldsense_qa.json", content)
    write_clip(folder / "videos/abcd.mp4", 20, sound=True)
    write_clip(folder / "videos/efgh.mp4", 70, sound=True)


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
    "msvd_qa": _msvd_qa,
    "activitynet_qa": _activitynet_qa,
    "mvbench": _mvbench,
    "videomme": _videomme,
    "omnibench": _omnibench,
    "worldsense": _worldsense,
}
"""Name of a benchmark -> writes its files below a folder, which is DATA_ROOT/NAME."""
