"""Media of lmms-eval's tasks keep their order and their kind, whatever the task hands over."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_processor import picture

from unimoe.integrations.lmms_eval_media import media_item, sound_key, to_messages, user_turn
from unimoe.modality import MEDIA, Modality

SAMPLES = {"array": np.zeros(1600), "sampling_rate": 16_000}


class SoundDecoder:
    def get_all_samples(self) -> Any: ...


class FilmDecoder:
    def get_frames_at(self, indices: list[int]) -> Any: ...


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [item["type"] for message in messages for item in message["content"]]


def test_media_stay_where_they_stand_among_the_text() -> None:
    content = [
        {"type": "text", "text": "first"},
        {"type": "image", "url": picture()},
        {"type": "text", "text": "then"},
        {"type": "audio", "url": SAMPLES},
        {"type": "video", "url": "clip.mp4"},
        {"type": "image", "url": "last.png"},
    ]
    messages = to_messages(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}], sound="audio"
    )
    assert kinds(messages) == ["text", "text", "image", "text", "audio", "video", "image"]
    assert messages[0] == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert messages[1]["content"][3] == {"type": "audio", "audio": SAMPLES}
    assert messages[1]["content"][5] == {"type": "image", "image": "last.png"}


@pytest.mark.parametrize(
    ("medium", "stated", "kind"),
    [
        (picture(), None, "image"),
        ("a/b.PNG", None, "image"),
        (Path("a.flac"), None, "audio"),
        ("a.mp4", None, "video"),
        ("a.mp4", "audio", "audio"),  # the sound of a film
        ("a.webm", "audio", "video"),  # lmms-eval takes every .webm for a sound
        (SAMPLES, None, "audio"),
        (SAMPLES, "video", "audio"),  # lmms-eval takes a dict without a type for a film
        ("sound.wav", "video", "audio"),
        ({"bytes": b"...", "path": "a.wav"}, None, "audio"),
        ({"bytes": b"...", "path": "a.jpg"}, None, "image"),
        ({"type": "audio", "path": "a.mp4"}, None, "audio"),
        ({"frames": [picture()], "fps": 2.0}, None, "video"),
        ([picture(), picture()], None, "video"),
        (np.zeros((2, 8, 8, 3), dtype=np.uint8), None, "video"),
        (SoundDecoder(), "video", "audio"),
        (FilmDecoder(), None, "video"),
    ],
)
def test_a_medium_is_what_it_shows_itself_to_be(medium: Any, stated: str | None, kind: str) -> None:
    item = media_item(medium, stated, sound="audio")
    assert item["type"] == kind and set(item) == {"type", kind}


def test_a_dict_of_a_task_gives_its_path_and_one_of_datasets_its_bytes() -> None:
    typed = {"type": "video", "url": "a.mp4", "video_start": None}
    assert media_item(typed, sound="audio") == {"type": "video", "video": "a.mp4"}
    held = {"bytes": b"...", "path": "a.wav"}
    assert media_item(held, sound="speech") == {"type": "speech", "speech": held}


def test_a_medium_of_no_known_kind_is_refused_with_what_it_is() -> None:
    with pytest.raises(ValueError, match=r"a dict is neither picture, film nor sound \(its keys: bytes\). State"):
        media_item({"bytes": b"..."}, sound="audio")
    with pytest.raises(ValueError, match=r"a bytes is neither picture, film nor sound\. Give a PIL image"):
        media_item(b"RIFF", sound="audio")


@pytest.mark.parametrize(
    "item",
    [
        {"type": "video", "url": {"type": "video", "path": "a.mp4", "video_start": 1.0, "video_end": 2.0}},
        {"type": "video", "url": "a.mp4", "start_time": 1.0},
    ],
)
def test_a_part_of_a_film_is_refused_rather_than_the_whole_taken(item: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"(?i)only a part of a film is asked about"):
        to_messages([{"role": "user", "content": [item]}], sound="audio")


@pytest.mark.parametrize(
    ("media", "text", "expected"),
    [
        (None, "what?", ["text"]),
        ([], "what?", ["text"]),
        (picture(), "what?", ["image", "text"]),
        ([picture(), SAMPLES], "what?", ["image", "audio", "text"]),
        ([picture(), picture()], "is <image> like <image>?", ["text", "image", "text", "image", "text"]),
        ([picture()], "<image> what?", ["image", "text"]),
        ([picture()], "is <image> like <image>?", ["image", "text"]),  # one picture, named twice
    ],
)
def test_media_of_a_simple_task_stand_at_their_tags_or_first(media: Any, text: str, expected: list[str]) -> None:
    assert kinds(user_turn(media, text, sound="audio")) == expected


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("librispeech_test_clean", "speech"),
        ("my_librispeech", "speech"),
        ("air_bench_foundation_speech", "speech"),
        ("air_bench_foundation_sound", "audio"),
        ("clotho_aqa_test", "audio"),
        ("mmau_test_mini", "audio"),
    ],
)
def test_the_task_says_whether_sounds_are_speech(task: str, kind: str) -> None:
    assert sound_key(task, MEDIA) == kind
    assert sound_key(task, MEDIA, metadata={"sound": "audio"}) == "audio"
    assert sound_key(task, MEDIA, sound="speech", metadata={"sound": "audio"}) == "speech"
    assert sound_key(task, (Modality.IMAGE, Modality.SPEECH)) == "speech"
    assert sound_key(task, (Modality.IMAGE, Modality.AUDIO)) == "audio"


def test_another_kind_of_sound_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"task pope: sound='spech' is no kind of sound. Did you mean 'speech'\?"):
        sound_key("pope", MEDIA, sound="spech")
