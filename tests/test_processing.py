"""The processor: messages and media in, exactly what the model takes out. Each test is a claim of its docstrings."""

import datasets
import numpy as np
import pytest
import torch
from tiny_processor import (
    AST_WINDOW,
    EVERYTHING,
    FOLDER,
    RATE,
    byte_tokenizer,
    first,
    item,
    make_processor,
    picture,
    process,
    runs,
    sound,
    turn,
)

from unimoe.modality import MEDIA
from unimoe.processing_unimoe import UniMoEProcessor


@pytest.fixture(scope="module")
def processor() -> UniMoEProcessor:
    return make_processor()


def test_chat_template_renders_chatml_with_one_placeholder_per_medium(processor):
    text = processor.apply_chat_template(
        [{"role": "system", "content": "be brief"}, turn(item("image", picture()), "what?")],
        add_generation_prompt=True,
    )
    assert text == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n<|image|>what?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_string_content_and_text_items_render_alike(processor):
    plain = [{"role": "user", "content": "  hé\n"}, {"role": "assistant", "content": " ok "}]
    items = [turn("  hé\n"), turn(" ok ", role="assistant")]
    assert processor.apply_chat_template(plain) == processor.apply_chat_template(items)
    assert "  hé\n<|im_end|>" in processor.apply_chat_template(plain)


def test_all_four_media_give_exactly_their_tokens_types_and_features(processor):
    out = process(processor, EVERYTHING)
    assert set(out) == {"input_ids", "attention_mask", *processor.model_input_names}
    kinds = out["mm_token_type_ids"][0].tolist()
    assert runs(kinds) == [(1, 5), (4, 2), (3, 3), (2, 10)]
    for modality in MEDIA:
        token_id = processor.tokenizer.convert_tokens_to_ids(modality.token)
        assert (out["input_ids"][0] == token_id).tolist() == [kind == modality for kind in kinds]
    assert out["pixel_values"].shape == (1, 3, 32, 32)
    assert out["pixel_values_videos"].shape == (2, 2, 3, 32, 32)
    assert out["audio_features"].shape == (1, 32, 16)
    assert out["speech_features"].shape == (1, 80, 100)
    assert all(out[modality.feature_name].dtype == torch.float32 for modality in MEDIA)


@pytest.mark.parametrize(("seconds", "windows"), [(0.001, 1), (1.0, 1), (1.0001, 2), (2.5, 3)])
def test_speech_takes_one_block_for_each_whisper_window(processor, seconds, windows):
    out = process(processor, [turn(item("speech", sound(seconds)), "?")])
    assert runs(out["mm_token_type_ids"][0].tolist()) == [(4, 2 * windows)]
    assert len(out["speech_features"]) == windows


@pytest.mark.parametrize(("samples", "windows"), [(1, 1), (AST_WINDOW, 1), (AST_WINDOW + 1, 2), (3 * AST_WINDOW, 3)])
def test_a_sound_takes_one_block_for_each_ast_window(processor, samples, windows):
    out = process(processor, [turn(item("audio", np.full(samples, 0.1, dtype=np.float32)), "?")])
    assert runs(out["mm_token_type_ids"][0].tolist()) == [(3, 3 * windows)]
    assert len(out["audio_features"]) == windows


def test_windows_of_a_long_sound_are_the_features_of_its_pieces(processor):
    long = sound(2.0)
    out = process(processor, [turn(item("speech", long), "?")])
    pieces = process(processor, [[turn(item("speech", piece), "?")] for piece in (long[:RATE], long[RATE:])])
    torch.testing.assert_close(out["speech_features"], pieces["speech_features"])


def test_every_medium_reaches_its_extractor_unchanged(processor):
    wave, image = sound(0.3), picture(200)
    out = process(processor, [turn(item("image", image), item("audio", wave), item("speech", wave), "?")])
    expected = processor.image_processor([image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(out["pixel_values"], expected)
    expected = processor.audio_feature_extractor(wave, sampling_rate=RATE, return_tensors="pt")["input_values"]
    torch.testing.assert_close(out["audio_features"], expected)
    expected = processor.speech_feature_extractor(wave, sampling_rate=RATE, return_tensors="pt")["input_features"]
    torch.testing.assert_close(out["speech_features"], expected)


def test_video_frames_are_those_of_the_image_processor_in_order(processor):
    frames = [picture(shade) for shade in (0, 60, 120, 180)]
    out = process(processor, [turn(item("video", frames), "?")])
    expected = processor.image_processor(frames, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(out["pixel_values_videos"].flatten(0, 1), expected)


def test_media_of_a_batch_are_concatenated_in_order_of_appearance(processor):
    shades = [[10, 60], [], [110, 160, 210]]
    rows = [[turn(*(item("image", picture(shade)) for shade in row), "?")] for row in shades]
    out = process(processor, rows)
    expected = processor.image_processor([picture(s) for row in shades for s in row], return_tensors="pt")
    torch.testing.assert_close(out["pixel_values"], expected["pixel_values"])
    assert [sum(kind == 1 for kind in row) for row in out["mm_token_type_ids"].tolist()] == [10, 0, 15]


def test_batching_changes_nothing_but_padding(processor):
    rows = [
        EVERYTHING,
        [turn("hi"), turn("ho", role="assistant")],
        [turn(item("audio", sound(0.7)), "longer than hi")],
    ]
    batch = process(processor, rows, return_assistant_tokens_mask=True)
    for index, row in enumerate(rows):
        alone = process(processor, row, return_assistant_tokens_mask=True)
        real = batch["attention_mask"][index].bool()
        for name in ("input_ids", "mm_token_type_ids", "assistant_masks"):
            assert batch[name][index][real].tolist() == alone[name][0].tolist()
            assert name == "input_ids" or not batch[name][index][~real].any()


def test_multi_turn_with_media_in_several_turns(processor):
    chat = [turn(item("image", picture()), "one"), turn("a", role="assistant"), turn(item("speech", sound()), "two")]
    out = process(processor, chat, add_generation_prompt=True)
    assert runs(out["mm_token_type_ids"][0].tolist()) == [(1, 5), (4, 2)]
    assert processor.decode(out["input_ids"][0]).endswith("two<|im_end|>\n<|im_start|>assistant\n")


def test_a_conversation_without_media_gives_no_features(processor):
    out = process(processor, [{"role": "user", "content": "hello"}])
    assert set(out) == {"input_ids", "attention_mask", "mm_token_type_ids"}


def test_the_callers_messages_are_left_as_they_are(processor):
    chat = [turn(item("image", image := picture()), "q")]
    process(processor, chat)
    assert chat == [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "q"}]}]


def masked_text(processor, out, row: int = 0) -> str:
    return processor.decode(out["input_ids"][row][out["assistant_masks"][row].bool()])


def test_assistant_mask_is_exactly_the_assistants_text_and_end_token(processor):
    out = process(processor, EVERYTHING, return_assistant_tokens_mask=True)
    assert masked_text(processor, out) == "a cat<|im_end|>"


def test_assistant_mask_stays_right_over_turns_media_padding_and_multibyte_text(processor):
    chat = [
        turn("ünï", item("speech", sound(2.5)), "é", item("image", picture())),
        turn("ответ 1", role="assistant"),
        turn(item("video", [picture()]), item("audio", sound(1.0)), "…"),
        turn("回答", role="assistant"),
    ]
    for side in ("left", "right"):
        out = process(processor, [EVERYTHING, chat], return_assistant_tokens_mask=True, padding_side=side)
        assert masked_text(processor, out, 0) == "a cat<|im_end|>"
        assert masked_text(processor, out, 1) == "ответ 1<|im_end|>回答<|im_end|>"


def test_assistant_mask_is_right_with_a_tokenizer_that_has_a_beginning_token():
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    out = process(processor := make_processor(tokenizer=tokenizer), EVERYTHING, return_assistant_tokens_mask=True)
    assert out["input_ids"][0, 0] == tokenizer.bos_token_id
    assert masked_text(processor, out) == "a cat<|im_end|>"


def test_media_in_an_assistants_turn_are_not_its_words(processor):
    chat = [turn("draw"), turn("see ", item("image", picture()), " done", role="assistant")]
    out = process(processor, chat, return_assistant_tokens_mask=True)
    assert masked_text(processor, out) == "see  done<|im_end|>"


def test_assistant_mask_is_the_same_as_lists(processor):
    tensors = process(processor, EVERYTHING, return_assistant_tokens_mask=True)
    lists = process(processor, EVERYTHING, return_assistant_tokens_mask=True, return_tensors=None)
    assert lists["assistant_masks"] == tensors["assistant_masks"].tolist()


def test_prompts_are_padded_left_and_training_rows_right(processor):
    rows = [[turn("short")], [turn("a longer question")]]
    prompts = process(processor, rows, add_generation_prompt=True)
    assert prompts["attention_mask"][0].tolist() == sorted(prompts["attention_mask"][0].tolist())
    trained = process(processor, rows)
    assert trained["attention_mask"][0].tolist() == sorted(trained["attention_mask"][0].tolist(), reverse=True)
    assert not trained["attention_mask"].all()


def test_padding_side_can_be_asked_for_in_every_place(processor):
    rows = [[turn("short")], [turn("a longer question")]]
    for place in (
        {"padding_side": "right"},
        {"processor_kwargs": {"padding_side": "right"}},
        {"processor_kwargs": {"text_kwargs": {"padding_side": "right"}}},
    ):
        out = process(processor, rows, add_generation_prompt=True, **place)
        assert out["attention_mask"][0, 0] == 1
        assert out["attention_mask"][0, -1] == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_direct_call_respects_the_tokenizers_padding_side(side):
    processor = make_processor(tokenizer=byte_tokenizer(padding_side=side))
    out = processor(text=["a", "long"], padding=True, return_tensors="pt")
    assert out["attention_mask"][0].tolist() == ([0, 0, 0, 1] if side == "left" else [1, 0, 0, 0])


def test_direct_call_takes_flat_and_nested_lists_and_single_media(processor):
    texts = ["<|image|><|image|> x", "<|image|> y <|speech|>"]
    images = [picture(10), picture(20), picture(30)]
    flat = processor(text=texts, images=images, speech=sound(), padding=True, return_tensors="pt")
    nested = processor(text=texts, images=[images[:2], images[2:]], speech=[None, [sound()]], padding=True)
    torch.testing.assert_close(flat["pixel_values"], nested["pixel_values"])
    torch.testing.assert_close(flat["speech_features"], nested["speech_features"])
    assert flat["input_ids"].tolist() == nested["input_ids"]


def test_direct_call_tells_clips_from_lists_of_clips(processor):
    frames = [picture(10), picture(200)]
    array = np.stack([np.asarray(frame) for frame in frames])
    one = [processor(text="<|video|>", videos=videos)["pixel_values_videos"] for videos in (frames, array, [frames])]
    for pixels in one:
        torch.testing.assert_close(pixels, one[0])
    two = processor(text=["<|video|>", "<|video|>"], videos=[[frames], [array]], padding=True)
    assert two["pixel_values_videos"].shape == (4, 2, 3, 32, 32)
    batch = processor(text=["<|video|><|video|>"], videos=np.stack([array, array]))
    assert batch["pixel_values_videos"].shape == (4, 2, 3, 32, 32)


def test_a_list_of_numbers_is_one_sound(processor):
    out = processor(text="<|audio|>", audio=sound().tolist())
    assert len(out["audio_features"]) == 1


def test_bare_samples_are_resampled_from_the_stated_rate(processor):
    wave = sound(1.0)
    for place in ({"sampling_rate": 8000}, {"processor_kwargs": {"sampling_rate": 8000}}):
        out = process(processor, [turn(item("speech", wave), item("audio", wave), "?")], **place)
        assert len(out["speech_features"]) == 2
        assert len(out["audio_features"]) == 7  # 2 s in windows of 0.32 s
    stated = process(processor, [turn(item("speech", {"array": wave, "sampling_rate": 8000}), "?")])
    torch.testing.assert_close(stated["speech_features"], out["speech_features"])


def test_media_alone_give_features_alone(processor):
    out = processor(images=[picture(), picture()], audio=sound(), return_tensors="pt")
    assert set(out) == {"pixel_values", "audio_features"}
    assert out["pixel_values"].shape == (2, 3, 32, 32)


def test_numpy_tensors_are_returned_on_request(processor):
    out = process(processor, EVERYTHING, return_tensors="np", return_assistant_tokens_mask=True)
    assert all(isinstance(value, np.ndarray) for value in out.values())


def test_image_options_reach_the_image_processor(processor):
    small = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    for options in (small, {"images_kwargs": small}):
        out = processor(text="<|image|>", images=picture(), **options)
        assert out["pixel_values"].shape == (1, 3, 16, 16)


def test_modality_ids_can_be_left_out_and_token_type_ids_never_come(processor):
    assert "mm_token_type_ids" not in processor(text="x", return_mm_token_type_ids=False)
    assert "token_type_ids" not in processor(text="x", return_token_type_ids=True)
    assert processor.unused_input_names == ["token_type_ids"]


def test_create_mm_token_type_ids_gives_speech_four_and_takes_tensors(processor):
    ids = processor.tokenizer("x<|image|><|video|><|audio|><|speech|>")["input_ids"]
    assert processor.create_mm_token_type_ids([ids]) == [[0, 1, 2, 3, 4]]
    assert processor.create_mm_token_type_ids(torch.tensor([ids])) == [[0, 1, 2, 3, 4]]


def test_model_input_names_follow_the_parts(processor):
    assert processor.model_input_names == [
        "input_ids",
        "attention_mask",
        "mm_token_type_ids",
        "pixel_values",
        "pixel_values_videos",
        "audio_features",
        "speech_features",
    ]
    text_only = UniMoEProcessor(byte_tokenizer())
    assert text_only.model_input_names == ["input_ids", "attention_mask", "mm_token_type_ids"]


@pytest.mark.parametrize("key", ["own", "path", "url"])
def test_real_files_load_from_every_key_of_an_item(processor, key):
    files = {"image": first("image_kind", "*.png"), "speech": first("spoken_word", "*.flac")}
    files["audio"] = first("sound_kind", "*.flac")
    items = [{"type": kind, kind if key == "own" else key: str(path)} for kind, path in files.items()]
    out = process(processor, [turn(*items, "?")])
    assert out["pixel_values"].shape == (1, 3, 32, 32)
    assert len(out["speech_features"]) == 1
    assert len(out["audio_features"]) >= 1
    assert all(torch.isfinite(out[name]).all() for name in ("pixel_values", "speech_features", "audio_features"))


def test_none_in_an_item_counts_as_absent(processor):
    padded = {"type": "image", "image": None, "path": str(first("image_kind", "*.png")), "text": None, "url": None}
    out = process(processor, [turn(padded, {"type": "text", "text": "?", "image": None})])
    assert len(out["pixel_values"]) == 1


def test_rows_of_datasets_load(processor):
    files = [str(path) for path in sorted((FOLDER / "image_kind").glob("*.png"))[:2]]
    images = datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())
    out = processor(text=["<|image|>", "<|image|>"], images=images["image"], return_tensors="pt")
    assert len(out["pixel_values"]) == 2
    words = [str(path) for path in sorted((FOLDER / "spoken_word").glob("*.flac"))[:2]]
    undecoded = datasets.Dataset.from_dict({"speech": words}).cast_column("speech", datasets.Audio(decode=False))
    out = process(processor, [[turn(item("speech", row["speech"]), "?")] for row in undecoded])
    assert len(out["speech_features"]) == 2


def test_openai_style_image_items_are_images(processor):
    url = {"type": "image_url", "image_url": {"url": str(first("image_kind", "*.png"))}}
    assert len(process(processor, [turn(url, "?")])["pixel_values"]) == 1
