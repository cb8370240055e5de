"""The processor among its neighbours: saved folders, Auto classes, transformers' pipeline and the model."""

import json
import pickle

import pytest
import torch
from tiny import tiny_config
from tiny_processor import (
    EVERYTHING,
    LAYOUT,
    NUM_TOKENS,
    RATE,
    byte_tokenizer,
    first,
    image_processor,
    item,
    make_processor,
    picture,
    process,
    sound,
    turn,
)
from transformers import (
    ASTFeatureExtractor,
    AutoProcessor,
    GenerationMixin,
    ImageTextToTextPipeline,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperFeatureExtractor,
)

from unimoe import UniMoEForConditionalGeneration
from unimoe.modality import MEDIA, Modality
from unimoe.processing_unimoe import CHAT_TEMPLATE, UniMoEProcessor


@pytest.fixture(scope="module")
def processor() -> UniMoEProcessor:
    return make_processor()


def assert_same_outputs(first_processor, second_processor) -> None:
    first_out, second_out = (
        process(p, EVERYTHING, return_assistant_tokens_mask=True) for p in (first_processor, second_processor)
    )
    assert set(first_out) == set(second_out)
    for name, value in first_out.items():
        assert torch.equal(value, second_out[name]), name


def test_save_and_load_round_trip_keeps_both_feature_extractors(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "processor_config.json",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
        "load_unimoe.py",
    }
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["audio_feature_extractor"]["feature_extractor_type"] == "ASTFeatureExtractor"
    assert saved["speech_feature_extractor"]["feature_extractor_type"] == "WhisperFeatureExtractor"
    loaded = UniMoEProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded.audio_feature_extractor, ASTFeatureExtractor)
    assert isinstance(loaded.speech_feature_extractor, WhisperFeatureExtractor)
    assert loaded.audio_feature_extractor.max_length == 32
    assert loaded.speech_feature_extractor.n_samples == RATE
    assert loaded.layout == processor.layout and loaded.layout.num_tokens == NUM_TOKENS
    assert loaded.to_dict() == processor.to_dict()
    assert_same_outputs(processor, loaded)


def test_auto_processor_loads_the_folder_of_a_model(processor, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is UniMoEProcessor
    assert_same_outputs(processor, loaded)


@pytest.mark.parametrize("absent", ["image_processor", "audio_feature_extractor", "speech_feature_extractor"])
def test_absent_parts_stay_absent_through_save_and_load(absent, tmp_path):
    make_processor(**{absent: None}).save_pretrained(tmp_path)
    loaded = UniMoEProcessor.from_pretrained(tmp_path)
    assert getattr(loaded, absent) is None
    assert len(loaded.modalities) == (2 if absent == "image_processor" else 3)


def test_from_pretrained_takes_overrides_and_the_saved_template(tmp_path):
    own = CHAT_TEMPLATE.replace("<|im_start|>", "<|im_start|>>")
    make_processor(chat_template=own).save_pretrained(tmp_path)
    loaded = UniMoEProcessor.from_pretrained(tmp_path, media_layout={**LAYOUT, "video_max_frames": 2})
    assert loaded.chat_template == own
    assert loaded.layout.video_max_frames == 2


def test_the_tokenizers_own_template_does_not_replace_the_processors(tmp_path):
    tokenizer = byte_tokenizer(chat_template="{{ 'no media' }}")
    make_processor(tokenizer=tokenizer).save_pretrained(tmp_path)
    assert UniMoEProcessor.from_pretrained(tmp_path).chat_template == CHAT_TEMPLATE


def test_a_processor_survives_pickling(processor):
    assert_same_outputs(processor, pickle.loads(pickle.dumps(processor)))


def test_batch_decode_and_post_processing_drop_placeholders(processor):
    out = process(processor, [EVERYTHING, EVERYTHING])
    expected = "user\nabcwhat is it?\nassistant\na cat\n"
    assert processor.batch_decode(out["input_ids"], skip_special_tokens=True) == [expected] * 2
    assert processor.post_process_image_text_to_text(out["input_ids"]) == [expected] * 2


class EchoModel(PreTrainedModel, GenerationMixin):
    """Answers "yes" to everything, and keeps what it was given."""

    config_class = PreTrainedConfig
    main_input_name = "input_ids"

    def __init__(self, answer: list[int]) -> None:
        super().__init__(PreTrainedConfig())
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answer = answer

    def generate(self, **inputs) -> torch.Tensor:
        self.given = inputs
        ids = inputs["input_ids"]
        return torch.cat([ids, torch.tensor([self.answer] * len(ids))], dim=1)


@pytest.fixture
def pipe(processor) -> ImageTextToTextPipeline:
    model = EchoModel(processor.tokenizer("yes<|im_end|>")["input_ids"])
    return ImageTextToTextPipeline(model=model, processor=processor)


def test_image_text_to_text_pipeline_answers_a_chat(pipe):
    path = str(first("image_kind", "*.png"))
    answer = pipe([turn({"type": "image", "url": path}, "a fish?")], return_full_text=False)
    assert answer[0]["generated_text"] == "yes"
    assert {"input_ids", "attention_mask", "mm_token_type_ids", "pixel_values"} <= set(pipe.model.given)
    full = pipe([turn({"type": "image", "path": path}, "a fish?")])
    assert full[0]["generated_text"][-1] == {"role": "assistant", "content": "yes"}


def test_image_text_to_text_pipeline_takes_all_other_media_in_a_chat(pipe):
    answer = pipe([EVERYTHING[0]], return_full_text=False)
    assert answer[0]["generated_text"] == "yes"
    assert set(MEDIA) == {m for m in MEDIA if m.feature_name in pipe.model.given}


def test_image_text_to_text_pipeline_continues_a_prefix(pipe):
    out = pipe([turn("hi"), turn("the answer is ", role="assistant")])
    assert out[0]["generated_text"][-1]["content"][-1]["text"] == "the answer is yes"
    assert pipe.processor.decode(pipe.model.given["input_ids"][0]).endswith("assistant\nthe answer is ")


def test_image_text_to_text_pipeline_takes_images_and_plain_text(pipe):
    out = pipe(images=picture(), text="<|image|>what?", return_full_text=False)
    assert out[0]["generated_text"] == "yes"
    assert pipe.model.given["pixel_values"].shape == (1, 3, 32, 32)


def test_the_modalities_of_messages_and_ids_are_those_of_modality():
    assert [int(modality) for modality in Modality] == [0, 1, 2, 3, 4]


def test_what_the_processor_returns_is_what_the_model_takes():
    tokenizer = byte_tokenizer()
    ids = {f"{m.key}_token_id": tokenizer.convert_tokens_to_ids(m.token) for m in MEDIA}
    config = tiny_config(vocab_size=len(tokenizer))
    for name, token_id in ids.items():
        setattr(config, name, token_id)
    processor = UniMoEProcessor.from_config(
        config,
        tokenizer,
        image_processor(),
        ASTFeatureExtractor(max_length=56, num_mel_bins=32),
        WhisperFeatureExtractor(chunk_length=1),
    )
    torch.manual_seed(0)
    model = UniMoEForConditionalGeneration(config).eval()
    chats = [EVERYTHING[:1], [turn(item("speech", sound(1.5)), "and now?")]]
    inputs = process(processor, chats, add_generation_prompt=True)
    generated = model.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert generated.shape == (2, inputs["input_ids"].shape[1] + 3)
    alone = process(processor, chats[1], add_generation_prompt=True)
    assert torch.equal(
        model.generate(**alone, max_new_tokens=3, do_sample=False, eos_token_id=None)[0, -3:], generated[1, -3:]
    )
    piped = ImageTextToTextPipeline(model=model, processor=processor)(
        [EVERYTHING[0]], max_new_tokens=2, return_full_text=False
    )
    assert isinstance(piped[0]["generated_text"], str)
