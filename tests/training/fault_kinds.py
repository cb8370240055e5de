"""Every kind of fault that data may have, once, and how it is planted in a row of each format that can express it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import soundfile
from films import write_film
from PIL import Image
from row_formats import HEARD, QUESTION, SEEN, SHOWN, Llava, Messages, Parquet, UniMoE


class Planted(NamedTuple):
    """A bad row (bytes where it is no JSON), the key to be named, and a word of the cure."""

    row: Any
    key: str
    cure: str


Plant = Callable[[Messages], Planted | None]
FAULTS: dict[str, Plant] = {}


def fault(plant: Plant) -> Plant:
    """Add a fault to the table, under the name of its function."""
    FAULTS[plant.__name__] = plant
    return plant


def write_media(folder: Path) -> None:
    """Write the media that good and bad rows name."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    picture.save(folder / "good.png")
    picture.save(folder / "good.jpg")
    whole = (folder / "good.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "corrupt.png").write_bytes(whole[:8] + bytes(len(whole) - 8))
    (folder / "no_pixels.png").write_bytes(whole[:16] + bytes(8) + whole[24:])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture\n")
    (folder / "page.jpg").write_text("<!DOCTYPE html><html>404</html>")
    (folder / "pointer.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    (folder / "folder.png").mkdir()
    sound = (rng.random(1600, dtype=np.float32) - 0.5) / 4
    soundfile.write(folder / "good.wav", sound, 16_000)
    soundfile.write(folder / "no_samples.wav", sound[:0], 16_000)
    sound[3] = np.nan
    soundfile.write(folder / "nan.wav", sound, 16_000, subtype="FLOAT")
    (folder / "corrupt.wav").write_bytes(b"RIFF" + bytes(40))
    frames = [Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(folder / "good.gif", save_all=True, append_images=frames[1:])
    (folder / "truncated.gif").write_bytes((folder / "good.gif").read_bytes()[:-400])
    write_film(folder / "good.mp4", [20, 200])
    with av.open(str(folder / "no_frames.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 4096), dtype=np.float32), format="fltp", layout="mono")
        piece.sample_rate = 16_000
        container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


def good_rows(form: Messages) -> list[Any]:
    """Rows without a fault, of all kinds, which are put around the bad ones."""
    rows = [
        form.row("text", QUESTION),
        form.row("picture", SEEN, image=["good.png"]),
        form.row("sound", HEARD, audio=["good.wav"]),
        form.row("clip", SHOWN, video=["good.gif"]),
        form.row("film", SHOWN, video=["good.mp4"]),
        form.row("system", [("system", "be brief"), *QUESTION, *QUESTION]),
        form.row("two users", [("user", "look"), ("user", "<image><image>\nwhich?"), ("assistant", "both")],
                 image=["good.png", "good.jpg"]),
        form.row("empty question", [("user", ""), ("assistant", "a text without a question")]),
        form.row(7, QUESTION),
        {key: value for key, value in form.row("", QUESTION).items() if key != "id"},
        {**form.row("metadata", SEEN, image=["good.png"]), "source": "made.png", "score": 0.5},
    ]  # fmt: skip
    if not isinstance(form, Parquet):
        rows.append(form.row("frames", SHOWN, video=[["good.png", "good.jpg"]]))
    return rows


def edit(form: Messages, turn: int = 0, *, turns: Any = QUESTION, drop: str = "", **changes: Any) -> dict[str, Any]:
    """A row with one turn changed."""
    row = form.row("bad", turns)
    row[form.dialogue][turn].update(changes)
    row[form.dialogue][turn].pop(drop, None)
    return row


def item(**values: Any) -> dict[str, Any]:
    """A row whose first content is one item and a text."""
    row = Messages().row("bad", QUESTION)
    row["messages"][0]["content"] = [values, {"type": "text", "text": "what?"}]
    return row


def is_json(form: Messages) -> bool:
    return not isinstance(form, Parquet)


# What is no row at all


@fault
def no_json(form: Messages) -> Planted | None:
    return Planted(b"{not json", "", "JSON object") if is_json(form) else None


@fault
def no_object(form: Messages) -> Planted | None:
    return Planted(b"[1, 2]", "", "messages") if is_json(form) else None


@fault
def latin_1(form: Messages) -> Planted | None:
    row = json.dumps(form.row("bad", [("user", "caf\u00e9?"), ("assistant", "yes")]), ensure_ascii=False)
    return Planted(row.encode("latin-1"), "", "UTF-8") if is_json(form) else None


@fault
def not_a_number(form: Messages) -> Planted | None:
    row = {**form.row("bad", QUESTION), "score": {"value": float("nan")}}
    return Planted(row, "score.value", "null") if is_json(form) else None


@fault
def infinity(form: Messages) -> Planted | None:
    row = {**form.row("bad", QUESTION), "scores": [1, float("-inf")]}
    return Planted(row, "scores[1]", "null") if is_json(form) else None


@fault
def key_twice(form: Messages) -> Planted | None:
    row = json.dumps(form.row("bad", QUESTION)).replace('"id": "bad"', '"id": "bad", "id": "worse"')
    return Planted(row.encode(), "id", "out") if is_json(form) else None


@fault
def half_a_character(form: Messages) -> Planted | None:
    row = form.row("bad", [("user", "smile \ud83d"), ("assistant", "yes")])
    return Planted(row, f"{form.dialogue}[0].{form.text}", "UTF-8") if is_json(form) else None


@fault
def name_is_a_list(form: Messages) -> Planted | None:
    return Planted(form.row(["a", "b"], QUESTION), "id", "one name")


@fault
def name_of_another_row(form: Messages) -> Planted | None:
    return Planted(form.row("text", [("user", "another?"), ("assistant", "yes")]), "id", "of its own")


# Dialogue


@fault
def misspelled_dialogue(form: Messages) -> Planted | None:
    row = form.row("bad", QUESTION)
    row[form.dialogue[:-2] + "s"] = row.pop(form.dialogue)
    return Planted(row, "", f"Did you mean '{form.dialogue}'") if is_json(form) else None


@fault
def dialogue_is_empty(form: Messages) -> Planted | None:
    return Planted(form.row("bad", []), form.dialogue, "assistant")


@fault
def dialogue_is_null(form: Messages) -> Planted | None:
    return Planted({**form.row("bad", []), form.dialogue: None}, form.dialogue, "assistant")


@fault
def dialogue_is_no_list(form: Messages) -> Planted | None:
    return Planted({**form.row("bad", []), form.dialogue: "what? yes"}, form.dialogue, "assistant")


@fault
def two_dialogues(form: Messages) -> Planted | None:
    row = {**Messages().row("bad", QUESTION), **Llava().row("bad", QUESTION)}
    return Planted({**row, "voice": ["good.wav"]} if isinstance(form, UniMoE) else row, "conversations", "Leave one")


@fault
def turn_is_no_object(form: Messages) -> Planted | None:
    row = form.row("bad", QUESTION)
    row[form.dialogue][1] = "a thing"
    return Planted(row, f"{form.dialogue}[1]", "Write")


@fault
def no_role(form: Messages) -> Planted | None:
    return Planted(edit(form, drop=form.role, **{form.role[:-1]: "user"}), f"{form.dialogue}[0]", "Did you mean")


@fault
def no_content(form: Messages) -> Planted | None:
    return Planted(edit(form, drop=form.text, **{form.text + "s": "what?"}), f"{form.dialogue}[0]", "Did you mean")


@fault
def content_is_null(form: Messages) -> Planted | None:
    return Planted(edit(form, **{form.text: None}), f"{form.dialogue}[0].{form.text}", "Fill it")


@fault
def answer_is_a_number(form: Messages) -> Planted | None:
    return Planted(edit(form, 1, **{form.text: 3}), f"{form.dialogue}[1].{form.text}", "string")


@fault
def answer_is_empty(form: Messages) -> Planted | None:
    return Planted(edit(form, 1, **{form.text: " \n"}), f"{form.dialogue}[1].{form.text}", "Fill it")


@fault
def unknown_role(form: Messages) -> Planted | None:
    known = form.roles["user"]
    row = edit(form, **{form.role: known[:-1]})
    return Planted(row, f"{form.dialogue}[0].{form.role}", f"Did you mean '{known}'")


@fault
def tool_speaks(form: Messages) -> Planted | None:
    turns = [*QUESTION, ("tool", "42"), ("assistant", "it is 42")]
    return Planted(form.row("bad", turns), f"{form.dialogue}[2].{form.role}", "turn of the user")


@fault
def system_is_not_first(form: Messages) -> Planted | None:
    return Planted(form.row("bad", [*QUESTION, ("system", "be brief"), *QUESTION]), f"{form.dialogue}[2]", "first")


@fault
def assistant_is_first(form: Messages) -> Planted | None:
    return Planted(form.row("bad", [("assistant", "hi"), *QUESTION]), f"{form.dialogue}[0]", "before it")


@fault
def no_answer(form: Messages) -> Planted | None:
    return Planted(form.row("bad", QUESTION[:1]), form.dialogue, "answer")


@fault
def last_question_is_not_answered(form: Messages) -> Planted | None:
    return Planted(form.row("bad", [*QUESTION, ("user", "why?")]), f"{form.dialogue}[2]", "answer")


@fault
def placeholder_in_the_text(form: Messages) -> Planted | None:
    turns = [("user", "what is <|image|>?"), ("assistant", "a token")]
    return Planted(form.row("bad", turns), f"{form.dialogue}[0].{form.text}", "Remove")


@fault
def end_of_turn_in_the_text(form: Messages) -> Planted | None:
    turns = [("user", "what?"), ("assistant", "a thing<|im_end|>")]
    return Planted(form.row("bad", turns), f"{form.dialogue}[1].{form.text}", "Remove")


@fault
def media_in_a_message(form: Messages) -> Planted | None:
    row = edit(form, images=["good.png"])
    return Planted(row, "messages[0].images", "into the content") if form.dialogue == "messages" else None


# Typed items


@fault
def answer_is_an_empty_list(form: Messages) -> Planted | None:
    return Planted(edit(form, 1, content=[]), "messages[1].content", "Fill it") if form.name == "messages" else None


@fault
def content_is_nested(form: Messages) -> Planted | None:
    row = edit(form, content=[[{"type": "text", "text": "what?"}]])
    return Planted(row, "messages[0].content[0]", "type") if form.name == "messages" else None


@fault
def item_without_type(form: Messages) -> Planted | None:
    return Planted(item(path="good.png"), "messages[0].content[0]", "type") if form.name == "messages" else None


@fault
def item_of_unknown_type(form: Messages) -> Planted | None:
    row = item(type="imgae", path="good.png")
    return Planted(row, "messages[0].content[0].type", "Did you mean 'image'") if form.name == "messages" else None


@fault
def item_with_a_misspelled_key(form: Messages) -> Planted | None:
    row = item(type="image", pth="good.png")
    return Planted(row, "messages[0].content[0].pth", "Did you mean 'path'") if form.name == "messages" else None


@fault
def item_without_a_medium(form: Messages) -> Planted | None:
    return Planted(item(type="image"), "messages[0].content[0]", "one image") if form.name == "messages" else None


@fault
def item_with_two_media(form: Messages) -> Planted | None:
    row = item(type="image", path="good.png", url="good.jpg")
    return Planted(row, "messages[0].content[0]", "one image") if form.name == "messages" else None


@fault
def item_whose_text_is_a_number(form: Messages) -> Planted | None:
    return (
        Planted(item(type="text", text=4), "messages[0].content[0].text", "string")
        if form.name == "messages"
        else None
    )


@fault
def bad_base64(form: Messages) -> Planted | None:
    row = item(type="image", base64="@@not base64@@")
    return Planted(row, "messages[0].content[0].base64", "path") if form.name == "messages" else None


@fault
def frames_are_none(form: Messages) -> Planted | None:
    row = item(type="video", path=[])
    return Planted(row, "messages[0].content[0].path", "paths of its frames") if form.name == "messages" else None


# Tags and columns


@fault
def too_few_files(form: Messages) -> Planted | None:
    if form.name == "messages":
        return Planted(edit(form, content="<image> what?"), "messages", "tag")
    row = form.row("bad", [("user", "<image><image> same?"), ("assistant", "no")], image=["good.png"])
    return Planted(row, form.medium("image").partition("[")[0], "one tag")


@fault
def too_many_files(form: Messages) -> Planted | None:
    row = form.row("bad", SEEN, image=["good.png", "good.jpg"])
    key = form.medium("image", 1).partition("[")[0]
    return Planted(row, key, "one tag") if form.name != "messages" else None


@fault
def tag_in_an_answer(form: Messages) -> Planted | None:
    turns = [("user", "show"), ("assistant", "here: <image>")]
    if form.name == "messages":
        row = edit(form, 1, content="here: <image>")
    else:
        row = form.row("bad", turns, image=["good.png"])
    return Planted(row, f"{form.dialogue}[1].{form.text}", "question")


@fault
def media_under_a_key_that_is_not_read(form: Messages) -> Planted | None:
    row = {**form.row("bad", QUESTION), "picture_file": "good.png"}
    row.pop("voice", None)
    if isinstance(form, UniMoE):
        row = {**Llava().row("bad", QUESTION), "picture_file": "good.png"}
    return Planted(row, "picture_file", "image")


@fault
def media_under_a_misspelled_key(form: Messages) -> Planted | None:
    if form.name not in ("columns", "llava"):
        return None
    row = form.row("bad", SEEN, image=["good.png"])
    key = form.medium("image").partition("[")[0]
    row["imgae"] = row.pop(key)
    return Planted(row, "imgae", "Did you mean 'image'")


# Media


def seen(form: Messages, path: Any, cure: str) -> Planted:
    return Planted(form.row("bad", SEEN, image=[path]), form.medium("image"), cure)


def heard(form: Messages, path: Any, cure: str) -> Planted:
    return Planted(form.row("bad", HEARD, audio=[path]), form.medium("audio"), cure)


def shown(form: Messages, path: Any, cure: str) -> Planted:
    return Planted(form.row("bad", SHOWN, video=[path]), form.medium("video"), cure)


@fault
def no_file(form: Messages) -> Planted | None:
    return seen(form, "nowhere/at/all.png", "relative ones start from")


@fault
def path_in_other_case(form: Messages) -> Planted | None:
    return seen(form, "Good.PNG", "Did you mean 'good.png'")


@fault
def path_with_another_ending(form: Messages) -> Planted | None:
    return heard(form, "goood.wav", "Did you mean 'good.wav'")


@fault
def path_with_backslashes(form: Messages) -> Planted | None:
    return seen(form, ".\\good.png", "with slashes") if is_json(form) else None


@fault
def path_is_a_folder(form: Messages) -> Planted | None:
    return seen(form, "folder.png", "path of a file")


@fault
def path_is_a_number(form: Messages) -> Planted | None:
    return seen(form, 17, "path of one picture") if is_json(form) else None


@fault
def remote_address(form: Messages) -> Planted | None:
    return seen(form, "https://example.org/a.png", "save the file")


@fault
def picture_is_empty(form: Messages) -> Planted | None:
    return seen(form, "empty.png", "leave it out")


@fault
def picture_is_corrupt(form: Messages) -> Planted | None:
    return seen(form, "corrupt.png", "Replace the file")


@fault
def picture_is_truncated(form: Messages) -> Planted | None:
    return seen(form, "truncated.png", "Replace the file")


@fault
def picture_has_no_pixels(form: Messages) -> Planted | None:
    return seen(form, "no_pixels.png", "Replace the file")


@fault
def picture_is_text(form: Messages) -> Planted | None:
    return seen(form, "text.png", "It is a text")


@fault
def picture_is_a_web_page(form: Messages) -> Planted | None:
    return seen(form, "page.jpg", "download failed")


@fault
def picture_is_a_pointer(form: Messages) -> Planted | None:
    return seen(form, "pointer.png", "git lfs pull")


@fault
def picture_is_a_sound(form: Messages) -> Planted | None:
    return seen(form, "good.wav", "as audio or speech")


@fault
def picture_is_a_film(form: Messages) -> Planted | None:
    return seen(form, "good.mp4", "as a video")


@fault
def sound_is_a_picture(form: Messages) -> Planted | None:
    return heard(form, "good.png", "as an image")


@fault
def sound_is_corrupt(form: Messages) -> Planted | None:
    return heard(form, "corrupt.wav", "Replace the file")


@fault
def sound_has_no_samples(form: Messages) -> Planted | None:
    return heard(form, "no_samples.wav", "Leave it out")


@fault
def sound_is_not_finite(form: Messages) -> Planted | None:
    return heard(form, "nan.wav", "Repair")


@fault
def film_without_frames(form: Messages) -> Planted | None:
    return shown(form, "no_frames.mp4", "Replace the file")


@fault
def animation_is_truncated(form: Messages) -> Planted | None:
    return shown(form, "truncated.gif", "Replace the file")


@fault
def frame_is_missing(form: Messages) -> Planted | None:
    row = form.row("bad", SHOWN, video=[["good.png", "nowhere.png"]])
    return Planted(row, f"{form.medium('video')}[1]", "relative ones start from") if is_json(form) else None


@fault
def frame_is_corrupt(form: Messages) -> Planted | None:
    row = form.row("bad", SHOWN, video=[["good.png", "corrupt.png"]])
    return Planted(row, f"{form.medium('video')}[1]", "Replace the file") if is_json(form) else None
