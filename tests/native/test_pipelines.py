"""transformers' pipelines on a saved folder, with every modality."""

from pathlib import Path

import pytest
from tiny_processor import FOLDER, first, item, picture, sound, turn
from transformers import AnyToAnyPipeline, ImageTextToTextPipeline, pipeline

LENGTH = 4
FILES = {
    "image": first("image_kind", "*.png"),
    "speech": first("spoken_word", "*.flac"),
    "audio": first("sound_kind", "*.*"),
}
MEDIA = {
    "image": picture(),
    "speech": sound(0.5),
    "audio": sound(0.2),
    "video": [picture(shade) for shade in (0, 80, 160)],
}


@pytest.fixture(scope="module", params=["any-to-any", "image-text-to-text"])
def pipe(request, model_folder: Path):
    found = pipeline(request.param, model=str(model_folder))
    assert isinstance(found, AnyToAnyPipeline if request.param == "any-to-any" else ImageTextToTextPipeline)
    return found


@pytest.mark.parametrize("kind", MEDIA)
def test_a_chat_with_a_medium_is_answered(pipe, kind) -> None:
    answer = pipe(
        [turn(item(kind, MEDIA[kind]), "what is it?")],
        return_full_text=False,
        generate_kwargs={"do_sample": False, "max_new_tokens": LENGTH},
    )
    assert isinstance(answer[0]["generated_text"], str)


@pytest.mark.parametrize("kind", FILES)
def test_a_chat_with_a_file_is_answered(pipe, kind) -> None:
    answer = pipe(
        [turn({"type": kind, "path": str(FILES[kind])}, "what is it?")],
        return_full_text=False,
        generate_kwargs={"do_sample": False, "max_new_tokens": LENGTH},
    )
    assert isinstance(answer[0]["generated_text"], str)
    assert FOLDER.is_dir()


def test_a_chat_with_everything_and_a_batch_of_chats_are_answered(pipe) -> None:
    everything = [turn(*(item(kind, medium) for kind, medium in MEDIA.items()), "and?")]
    text = [turn("hello")]
    answers = pipe(
        [everything, text], return_full_text=False, generate_kwargs={"do_sample": False, "max_new_tokens": LENGTH}
    )
    assert len(answers) == 2
    full = pipe(text, generate_kwargs={"do_sample": False, "max_new_tokens": LENGTH})[0]["generated_text"]
    assert full[-1]["role"] == "assistant"


@pytest.mark.parametrize("kind", [None, "image", "speech", "audio"])
def test_a_batch_of_chats_is_answered_as_one_by_one(pipe, kind) -> None:
    """Texts of different lengths, with a medium each or with none."""
    medium = [item(kind, MEDIA[kind])] if kind else []
    chats = [[turn(*medium, text)] for text in ("which?", "a much longer question than the others", "mid length")]
    options = {"return_full_text": False, "generate_kwargs": {"do_sample": False, "max_new_tokens": LENGTH}}
    one_by_one = [pipe(chat, **options)[0]["generated_text"] for chat in chats]
    assert [answer[0]["generated_text"] for answer in pipe(chats, batch_size=3, **options)] == one_by_one


def test_chats_with_other_media_are_no_batch_of_a_pipeline_but_one_of_the_processor(pipe) -> None:
    """Transformers refuses rows with other keys; and rows with more units than one of what it cannot join."""
    options = {"return_full_text": False, "generate_kwargs": {"do_sample": False, "max_new_tokens": LENGTH}}
    mixed = [[turn(item("image", picture()), "a")], [turn("b")]]
    with pytest.raises(ValueError, match="different keys"):
        pipe(mixed, batch_size=2, **options)
    one_by_one = [answer[0]["generated_text"] for answer in pipe(mixed, **options)]
    shape = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "padding": True}
    inputs = pipe.processor.apply_chat_template(mixed, add_generation_prompt=True, **shape)
    found = pipe.model.generate(**inputs, **options["generate_kwargs"])[:, inputs["input_ids"].shape[1] :]
    assert pipe.processor.batch_decode(found, skip_special_tokens=True) == one_by_one
    double = [turn(item("speech", sound(0.5)), item("speech", sound(0.4)), "a")]
    clip = [turn(item("video", MEDIA["video"]), "a")]
    for chat, kind in ((double, "speech"), (clip, "video")):
        with pytest.raises(ValueError, match=rf"{kind} placeholder token\(s\) but"):
            pipe([chat, chat], batch_size=2, **options)


def test_the_medium_reaches_the_answer(pipe) -> None:
    seen = []
    hook = pipe.model.model.encoders["image"].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for shade in (0, 255):
        pipe(
            [turn(item("image", picture(shade)), "what?")],
            return_full_text=False,
            generate_kwargs={"do_sample": False, "max_new_tokens": LENGTH},
        )
    hook.remove()
    assert len(seen) == 2 and not seen[0].equal(seen[1])
