"""A few rows of each benchmark of video, and of pictures and video with sound, in its publisher's layout."""

from collections.abc import Callable
from pathlib import Path

from fixture_files import Row, write_clip, write_json, write_lines, write_parquet, write_picture, write_sound

from evaluation.tasks.video.mvbench import FOLDERS


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
    write_parquet(folder / "videomme/test-00000-of-00001.parquet", rows)
    write_clip(folder / "data/fFjv93ACGo8.mp4", 30, sound=True)
    write_clip(folder / "data/N1cdUjctpG8.mkv", 80)


def _omnibench(folder: Path) -> None:
    rows = [
        ("ring.mp3", "people.png", "Action and Activity", "speech", "What are they doing?"),
        ("wind.mp3", "hill.jpg", "Story Description", "Sound Event", "What is heard?"),
    ]
    lines = [
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
        for index, (sound, picture, task, kind, question) in enumerate(rows)
    ]
    write_lines(folder / "dataset/batch-5_1142_20240817.jsonl", lines)
    for number, (sound, picture, *_) in enumerate(rows):
        write_sound(folder / "mm_data/audio" / sound, 300 + 50 * number)
        write_picture(folder / "mm_data/image" / picture, ("red", "blue")[number])


def _worldsense(folder: Path) -> None:
    def task(question: str, right: str) -> Row:
        return {
            "task_domain": "Recognition",
            "task_type": "Audio Recognition",
            "question": question,
            "answer": right,
            "candidates": ["A. A bell.", "B. A dog.", "C. A car.", "D. Rain."],
        }

    def video(**tasks: Row) -> Row:
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
    "msvd_qa": _msvd_qa,
    "activitynet_qa": _activitynet_qa,
    "mvbench": _mvbench,
    "videomme": _videomme,
    "omnibench": _omnibench,
    "worldsense": _worldsense,
}
"""Name of a benchmark -> writes its files below a folder, which is DATA_ROOT/NAME."""
