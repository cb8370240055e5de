"""A model composed of saved parts: text is answered as before, and every tower keeps its weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import WHISPER
from tiny_parts import save_parts
from tiny_processor import byte_tokenizer, item, picture, process, sound, turn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    CLIPImageProcessor,
    PreTrainedModel,
)
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor
from typer.testing import CliRunner

from unimoe import UniMoEForConditionalGeneration
from unimoe.build import build_model
from unimoe.build.towers import connector_config, encoder_config, from_timm
from unimoe.cli import app


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, PreTrainedModel]]:
    """Folders language/, vision/, speech/ and audio/ as a hub would have them, and their models."""
    root = tmp_path_factory.mktemp("parts")
    return root, save_parts(root)


def build(root: Path, **options):
    return build_model(
        root / "language", vision=root / "vision", speech=root / "speech", audio=root / "audio", **options
    )


@torch.no_grad()
def test_text_is_answered_as_by_the_language_model(parts) -> None:
    root, models = parts
    model, _ = build(root)
    ids = torch.randint(0, 200, (2, 12))
    expected = models["language"](ids).logits
    actual = model(ids).logits[..., : expected.shape[-1]]
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_towers_keep_their_weights_and_are_measured(parts) -> None:
    root, models = parts
    model, _ = build(root, connectors={"speech": {"stack": 10}})
    encoders = model.model.encoders
    vision = {
        name.removeprefix("vision_model."): value for name, value in encoders["image"].tower.state_dict().items()
    }
    for name, tensor in models["vision"].vision_model.state_dict().items():
        assert torch.equal(vision[name], tensor)
    for name, tensor in models["speech"].encoder.state_dict().items():
        assert torch.equal(encoders["speech"].tower.state_dict()[name], tensor)
    assert model.config.num_tokens == {"image": 4, "video": 4, "audio": 10, "speech": 5}


def test_a_window_of_speech_becomes_at_most_five_tokens_a_second() -> None:
    assert connector_config("speech", [1, 1500], {}) == {"stack": 10}
    assert connector_config("audio", [12, 101], {}) == {"stack": 12}  # AST: 101 steps in time, 12 bands
    assert connector_config("speech", [1, 100], {}) == {"stack": 1}
    assert connector_config("speech", [1, 1500], {"type": "qformer"}) == {"type": "qformer"}
    assert connector_config("speech", [1, 1500], {"stack": 2}) == {"stack": 2}
    assert connector_config("image", [24, 24], {}) == {}


@pytest.mark.parametrize("kind", ["pooling", "pixel_shuffle"])
def test_blocks_of_a_window_keep_as_many_tokens_as_they_may(kind: str) -> None:
    def stride(*grid: int) -> list[int]:
        return connector_config("audio", list(grid), {"type": kind})["stride"]

    assert stride(1, 1500) == [1, 10]
    assert stride(12, 101) == [12, 1]  # 101 is prime: all bands of frequency of a moment, 101 tokens
    assert stride(62, 8) == [1, 4]
    assert stride(4, 6) == [1, 1]
    assert connector_config("audio", [1, 1500], {"type": kind, "stride": 2}) == {"type": kind, "stride": 2}
    assert connector_config("image", [24, 24], {"type": kind}) == {"type": kind}
    grid = {"type": "pooling", "output_grid": [1, 200]}
    assert connector_config("audio", [1, 1500], grid) == grid


@torch.no_grad()
def test_the_decoder_of_a_query_decoder_is_that_of_the_whisper(parts) -> None:
    root, models = parts
    fields = {"type": "query_decoder", "num_queries": 7}
    model, processor = build(root, connectors={"speech": fields})
    theirs = models["speech"].decoder
    ours = model.model.connectors["speech"].decoder.state_dict()
    assert ours.keys() == theirs.state_dict().keys() - {"embed_tokens.weight"}
    assert all(torch.equal(theirs.state_dict()[name], tensor) for name, tensor in ours.items())
    assert model.config.num_tokens["speech"] == 7 and fields == {"type": "query_decoder", "num_queries": 7}
    chat = [turn(item("speech", sound(1.2)), "what is this?")]
    inputs = process(processor, chat, add_generation_prompt=True)
    features = model.model.get_speech_features(inputs["speech_features"])
    connector = model.model.connectors["speech"]
    queries = connector.queries.expand(len(inputs["speech_features"]), -1, -1)
    states = theirs(inputs_embeds=queries, encoder_hidden_states=features.last_hidden_state).last_hidden_state
    torch.testing.assert_close(torch.stack(features.pooler_output), connector.output_proj(states))


def test_the_decoder_of_a_query_decoder_can_be_described(parts) -> None:
    root, _ = parts
    decoder = {**WHISPER, "decoder_layers": 3, "decoder_attention_heads": 2}
    model, _ = build(root, connectors={"speech": {"type": "query_decoder", "decoder_config": decoder}})
    assert len(model.model.connectors["speech"].decoder.layers) == 3


def test_a_query_decoder_needs_a_whisper(parts) -> None:
    root, _ = parts
    with pytest.raises(
        ValueError, match=r"audio .*: a query_decoder connector takes the decoder of a Whisper; this is"
    ):
        build(root, connectors={"audio": {"type": "query_decoder"}})


def test_a_blip2_qformer_is_as_wide_as_its_encoder(parts) -> None:
    root, models = parts
    fields = {"type": "blip2_qformer", "num_queries": 7, "qformer_config": {"num_hidden_layers": 2}}
    model, _ = build(root, connectors={"audio": fields})
    qformer = model.config.audio_connector_config.qformer_config
    assert qformer.encoder_hidden_size == models["audio"].config.hidden_size != 1408
    assert (qformer.num_hidden_layers, qformer.hidden_size) == (2, 768)
    assert model.config.num_tokens["audio"] == 7 and fields["qformer_config"] == {"num_hidden_layers": 2}
    wrong = {**fields, "qformer_config": {"encoder_hidden_size": 8}}
    with pytest.raises(
        ValueError, match=r"audio_connector_config.qformer_config.encoder_hidden_size \(8\) is not the"
    ):
        build(root, connectors={"audio": wrong})


def test_the_command_line_takes_any_connector(parts, tmp_path: Path) -> None:
    root, _ = parts
    towers = ["--vision", str(root / "vision"), "--speech", str(root / "speech")]
    fields = ["image.type=pooling", "image.stride=2", "speech.type=query_decoder", "speech.num_queries=50"]
    options = [word for field in fields for word in ("--connector", field)]
    result = CliRunner().invoke(
        app, ["build", "--language", str(root / "language"), *towers, *options, "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    config = UniMoEForConditionalGeneration.from_pretrained(tmp_path).config
    assert (config.num_tokens["image"], config.num_tokens["speech"]) == (1, 50)
    refused = CliRunner().invoke(
        app, ["build", "--language", str(root / "language"), *towers, *options[:2], "--out", "x"]
    )
    assert refused.exit_code == 2 and "pooling needs either a stride" in refused.output


def test_pooling_of_pictures_is_built_from_its_stride(parts) -> None:
    root, _ = parts
    model, _ = build(root, connectors={"image": {"type": "pooling", "stride": 2}})
    assert model.config.num_tokens["image"] == 1
    with pytest.raises(Exception, match="pooling needs either a stride"):
        build(root, connectors={"image": {"type": "pooling"}})


def test_a_connector_without_an_encoder_is_refused(parts) -> None:
    root, _ = parts
    with pytest.raises(ValueError, match="connector speach: there is no such encoder; this model takes image"):
        build_model(root / "language", vision=root / "vision", connectors={"speach": {"stack": 5}})


def test_the_built_model_saves_loads_and_answers_about_all_media(parts, tmp_path: Path) -> None:
    root, _ = parts
    model, processor = build(root)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = UniMoEForConditionalGeneration.from_pretrained(tmp_path)
    chat = [turn(item("image", picture()), item("speech", sound(1.2)), item("audio", sound(0.1)), "what is this?")]
    inputs = process(type(processor).from_pretrained(tmp_path), chat, add_generation_prompt=True)
    outputs = [m.generate(**inputs, max_new_tokens=3, do_sample=False) for m in (model, loaded)]
    assert torch.equal(*outputs)


def test_parts_of_several_dtypes_become_a_model_of_one(parts, tmp_path: Path) -> None:
    """Towers are often published in float32, language models in bfloat16."""
    root, _ = parts
    shutil.copytree(root / "language", tmp_path / "language")
    AutoModelForCausalLM.from_pretrained(root / "language", dtype=torch.bfloat16).save_pretrained(
        tmp_path / "language"
    )
    towers = {name: root / name for name in ("vision", "speech", "audio")}
    connectors = {"speech": {"type": "query_decoder", "num_queries": 4}}
    model, processor = build_model(tmp_path / "language", **towers, connectors=connectors)
    model.save_pretrained(tmp_path / "model")
    loaded = UniMoEForConditionalGeneration.from_pretrained(tmp_path / "model")
    items = (item("image", picture()), item("speech", sound(0.5)), item("audio", sound(0.2)), "what?")
    for built in (model, loaded):
        assert {parameter.dtype for parameter in built.parameters()} == {torch.bfloat16}
        built.generate(**process(processor, [turn(*items)], add_generation_prompt=True), max_new_tokens=2)


def test_a_language_model_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=300)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    byte_tokenizer(placeholders=False).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="A 'gpt2' language model cannot be used; llama, mistral, qwen2, qwen3, mixtral,"
    ):
        build_model(tmp_path)


def test_an_answer_ends_where_the_chat_template_ends_a_turn(parts, tmp_path: Path) -> None:
    root, models = parts
    tokenizer = byte_tokenizer(placeholders=False, eos_token="z")  # as Llama's </s>: not what ends a turn of the chat
    tokenizer.save_pretrained(tmp_path)
    models["language"].save_pretrained(tmp_path)
    model, processor = build_model(tmp_path, vision=root / "vision")
    settings = model.generation_config
    assert processor.tokenizer.convert_tokens_to_ids("<|im_end|>") in settings.eos_token_id
    assert models["language"].generation_config.eos_token_id in settings.eos_token_id
    assert settings.pad_token_id == processor.tokenizer.pad_token_id
    assert set(settings.suppress_tokens) == {model.config.image_token_id, model.config.video_token_id}


@pytest.mark.parametrize(("architecture", "tokens"), [("test_vit", 100), ("swin_tiny_patch4_window7_224", 49)])
def test_timm_towers_give_patches_whatever_their_layout(architecture: str, tokens: int) -> None:
    tower = AutoModel.from_config(AutoConfig.for_model("timm_wrapper", architecture=architecture))
    size = 160 if architecture == "test_vit" else 224
    extractor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    config = encoder_config("image", tower, extractor)
    assert (config["num_tokens"], config["hidden_size"]) == (tokens, tower.timm_model.num_features)
    assert config["token_grid"] == [tokens**0.5] * 2


def test_a_timm_towers_pictures_are_prepared_as_timm_does_by_a_processor_that_can_be_saved(tmp_path) -> None:
    settings = {"input_size": [3, 32, 32], "crop_pct": 0.8, "interpolation": "bicubic", "mean": [0.5] * 3}
    timm = TimmWrapperImageProcessor({**settings, "std": [0.2] * 3}, architecture="resnet18")
    noise = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((70, 50), Image.Resampling.BICUBIC)
    from_timm(timm).save_pretrained(tmp_path)
    actual = AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")["pixel_values"]
    expected = timm(picture)["pixel_values"]
    assert actual.shape == expected.shape and (actual - expected).abs().mean() < 0.02
    with pytest.raises(ValueError, match="crop_mode 'squash' is not supported"):
        from_timm(TimmWrapperImageProcessor({**settings, "std": [0.2] * 3, "crop_mode": "squash"}))
