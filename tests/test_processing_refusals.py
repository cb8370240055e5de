"""What the processor refuses: each message says where, with both numbers or the nearest name, and the cure."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny_processor import (
    EVERYTHING,
    GRIDS,
    LAYOUT,
    byte_tokenizer,
    image_processor,
    item,
    make_processor,
    picture,
    process,
    runs,
    sound,
    turn,
)

from unimoe.configuration.media_layout import MediaLayout
from unimoe.modality import MEDIA, Modality
from unimoe.processing_unimoe import UniMoEProcessor, add_placeholder_tokens


@pytest.fixture(scope="module")
def processor() -> UniMoEProcessor:
    return make_processor()


@pytest.mark.parametrize(
    ("texts", "images", "message"),
    [
        (["<|image|>", "<|image|><|image|>"], [[0], [0]], r"row 1: found 2 <\|image\|> placeholder\(s\) but 1 image"),
        (["x", "<|image|>"], [[0], [0]], r"row 0: found 0 <\|image\|> placeholder\(s\) but 1 image"),
        (["<|image|>", "<|image|>"], [0], r"found 2 .* in 2 row\(s\) \(by row: \[1, 1\]\), but 1 image item"),
        (["<|image|>"], [[0], [0]], r"found 1 .* in 1 row\(s\) \(by row: \[1\]\), but 2 image item\(s\) in 2 list"),
        (["<|image|>"], None, r"row 0: found 1 <\|image\|> placeholder\(s\) but 0 image"),
        (["x"], [0], r"row 0: found 0 <\|image\|> placeholder\(s\) but 1 image"),
    ],
)
def test_placeholders_and_media_must_match_row_by_row(processor, texts, images, message):
    if images is not None:
        images = [[picture() for _ in row] if isinstance(row, list) else picture() for row in images]
    with pytest.raises(ValueError, match=message):
        processor(text=texts, images=images, padding=True)


def test_an_item_without_its_medium_is_refused_by_row(processor):
    rows = [[turn("x")], [turn({"type": "speech"}, "?")]]
    with pytest.raises(
        ValueError, match=r"row 1, message 0: content\[0\]: the speech item has no medium.*'path' or 'url'"
    ):
        process(processor, rows)


@pytest.mark.parametrize("tokenize", [True, False])
def test_unknown_item_types_are_refused_with_the_nearest_name(processor, tokenize):
    rows = [[turn("x")], [turn({"type": "imgae", "path": "x.png"})]]
    with pytest.raises(
        ValueError, match=r"row 1, message 0: content\[0\]\.type: unknown item type 'imgae'. Did you mean 'image'\?"
    ):
        processor.apply_chat_template(rows, tokenize=tokenize)


@pytest.mark.parametrize("bad", ["text", {"type": "text"}, {"text": "no type"}, {"type": "text", "text": None}])
def test_items_that_are_no_items_are_refused(processor, bad):
    with pytest.raises(
        ValueError, match=r"row 0, message 0: content\[0\](\.text)?: (expected an item|expected a string)"
    ):
        process(processor, [{"role": "user", "content": [bad]}])


def test_media_without_an_extractor_are_refused():
    processor = make_processor(
        speech_feature_extractor=None, media_layout={"grids": {"image": [1, 5], "audio": [1, 3]}}
    )
    for kind, medium in (("speech", sound()), ("video", [picture()])):
        with pytest.raises(
            ValueError,
            match=rf"row 0, message 0: content\[0\]\.{kind}: there is {kind}, but this processor takes only image, a",
        ):
            process(processor, [turn(item(kind, medium), "?")])
    with pytest.raises(ValueError, match=r"the call: there is speech, but .* no speech_feature_extractor"):
        processor(text="<|speech|>", speech=sound())
    with pytest.raises(ValueError, match="the call: there is speech"):
        processor(text="<|speech|>")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (item("image", "no/such.png"), "row 1, image 0: there is no file 'no/such.png'"),
        (item("speech", "no/such.flac"), "row 1, speech 0: there is no file"),
        (item("audio", np.zeros(0, dtype=np.float32)), "row 1, audio 0: the sound is empty"),
        (item("speech", []), "row 1, speech 0: the sound is empty"),
        (item("video", []), "row 1, video 0: the clip has 0 frames, 4 are sampled"),
    ],
)
def test_bad_media_are_refused_with_their_row(processor, bad, message):
    with pytest.raises(ValueError, match=message):
        process(processor, [[turn("fine")], [turn(bad, "?")]])


@pytest.mark.parametrize("content", ["say <|speech|>", [{"type": "text", "text": "say <|speech|>"}]])
def test_a_placeholder_in_a_users_text_is_refused(processor, content):
    with pytest.raises(
        ValueError,
        match=r"row 0, message 1: content(\[0\]\.text)?: the text holds <\|speech\|>.*sanitize_control_tokens=True",
    ):
        process(processor, [turn("x"), {"role": "user", "content": content}])


def test_sanitized_placeholders_are_plain_text_and_media_still_work(processor):
    chat = [turn(item("image", picture()), "say <|image|> and <|im_end|>")]
    out = process(processor, chat, sanitize_control_tokens=True)
    assert runs(out["mm_token_type_ids"][0].tolist()) == [(1, 5)]
    assert processor.decode(out["input_ids"][0]).count("<|image|>") == 6
    assert out["input_ids"][0].tolist().count(processor.tokenizer.eos_token_id) == 1


def test_truncation_that_would_cut_a_block_of_media_is_refused(processor):
    chat = [turn(item("image", picture()), "a question")]
    length = process(processor, chat)["input_ids"].shape[1]
    for max_length in (3, 8, 10):
        with pytest.raises(ValueError, match=rf"row 0: \d of 5 <\|image\|> tokens remain .*max_length={max_length}"):
            process(processor, chat, truncation=True, max_length=max_length)
    cut = process(processor, chat, truncation=True, max_length=length - 3)
    assert cut["input_ids"].shape[1] == length - 3


def test_unknown_arguments_are_refused_with_the_nearest_name(processor):
    with pytest.raises(ValueError, match=r"unknown argument 'paddding'. Did you mean 'padding'\?"):
        processor(text="x", paddding=True)
    with pytest.raises(ValueError, match=r"unknown argument 'audios'\. Did you mean 'audio'"):
        processor(text="x", audios=[sound()])


def test_nothing_to_process_is_refused(processor):
    for call in (lambda: processor(), lambda: processor(text=[]), lambda: process(processor, [])):
        with pytest.raises(ValueError, match=r"nothing to process|conversation is empty"):
            call()


def test_audio_track_of_a_video_is_refused(processor):
    with pytest.raises(ValueError, match="here, pass video_sound"):
        process(processor, EVERYTHING, load_audio_from_video=True)


def test_add_placeholder_tokens_counts_only_the_missing():
    tokenizer = byte_tokenizer(placeholders=False)
    before = len(tokenizer)
    assert add_placeholder_tokens(tokenizer) == 6
    assert len(tokenizer) == before + 6
    assert add_placeholder_tokens(tokenizer) == 0
    for modality in MEDIA:
        assert tokenizer.tokenize(f"a{modality.token}b")[1] == modality.token
        assert tokenizer.decode(tokenizer(modality.token)["input_ids"], skip_special_tokens=True) == ""


def test_a_tokenizer_without_placeholders_is_refused():
    with pytest.raises(ValueError, match=r"no token <\|image\|> for image. Call .*add_placeholder_tokens"):
        make_processor(tokenizer=byte_tokenizer(placeholders=False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grids": {**GRIDS, "speach": [1, 1]}}, r"unknown modality 'speach'. Did you mean 'speech'\?"),
        ({"grids": {**GRIDS, "audio": [0, 3]}}, r"grids\['audio'\] is \[0, 3\]"),
        (
            {"grids": {"image": [1, 1]}},
            "There is an audio_feature_extractor, but media_layout has no grid for 'audio'",
        ),
        ({"video_max_frames": 0}, "video_max_frames is 0"),
        ({"video_max_frames": 3}, r"video_temporal_stride \(2\) does not divide video_max_frames \(3\)"),
        ({"video_min_frames": 6}, r"video_min_frames \(6\) is more than video_max_frames \(4\)"),
        ({"video_frame_rate": 0.0}, "video_frame_rate is 0.0"),
        ({"video_sound": "sound"}, r"video_sound is 'sound', but .* are \['audio', 'speech'\]"),
        ({"position_type": "3d"}, "position_type is '3d'"),
        ({"position_type": "omni", "video_timestamps": True}, "Use one of both"),
    ],
)
def test_parts_and_lengths_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_processor(media_layout={**LAYOUT, **changes})


def test_parts_in_the_wrong_place_are_refused():
    with pytest.raises(TypeError, match="CLIPImageProcessor"):
        make_processor(audio_feature_extractor=image_processor())


def config_for(tokenizer, **changes) -> SimpleNamespace:
    ids = {f"{m.key}_token_id": tokenizer.convert_tokens_to_ids(m.token) for m in MEDIA}
    return SimpleNamespace(**{"media_layout": MediaLayout(**LAYOUT), **ids, **changes})


def test_from_config_takes_lengths_and_frames_from_the_configuration():
    tokenizer = byte_tokenizer()
    processor = UniMoEProcessor.from_config(config_for(tokenizer), tokenizer, image_processor=image_processor())
    assert processor.layout == MediaLayout(**LAYOUT)
    assert processor.modalities == (Modality.IMAGE, Modality.VIDEO)


def test_from_config_refuses_other_placeholder_ids():
    tokenizer = byte_tokenizer()
    with pytest.raises(ValueError, match=r"id of <\|audio\|> is \d+, the configuration's audio_token_id is 7"):
        UniMoEProcessor.from_config(config_for(tokenizer, audio_token_id=7), tokenizer)
    with pytest.raises(ValueError, match=r"id of <\|image\|> is None"):
        UniMoEProcessor.from_config(config_for(tokenizer), byte_tokenizer(placeholders=False))


def test_a_sound_track_without_an_extractor_is_refused():
    processor = make_processor(speech_feature_extractor=None)
    with pytest.raises(
        ValueError, match=r"the call: video_sound: there is speech, but .* no speech_feature_extractor"
    ):
        process(processor, [turn(item("video", [picture()]), "?")], video_sound="speech")
