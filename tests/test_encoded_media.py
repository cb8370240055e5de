"""Media whose encoders have run already are to processor and model what the media themselves are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from films import write_film
from PIL import Image
from tiny_model import save_tiny
from tiny_processor import item, picture, process, sound, turn
from transformers import AutoModelForMultimodalLM, AutoProcessor

from unimoe import MEDIA, Modality
from unimoe.media import CachedMedium
from unimoe.processing.units import UnitCollector

LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tiles and timestamps": {"image_max_tiles": 4, "video_timestamps": True},
    "omni": {"position_type": "omni", "image_max_tiles": 2},
    "grids": {"position_type": "omni", "image_grids": [[1, 1], [2, 2]]},
    "omni, sound of clips": {"position_type": "omni", "video_sound": "speech", "video_frame_rate": 1.0},
}
Chat = list[dict[str, Any]]


@pytest.fixture(scope="module", params=LAYOUTS.values(), ids=LAYOUTS.keys())
def parts(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = save_tiny(tmp_path_factory.mktemp("encoded"), request.param, num_experts=4)
    return AutoModelForMultimodalLM.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> list[Chat]:
    """Rows with every kind of medium, large and small, a film with and one without sound."""
    folder = tmp_path_factory.mktemp("media")
    film = write_film(folder / "a.mp4", range(0, 240, 6), sound=sound(4.0))
    silent = write_film(folder / "b.mp4", range(0, 240, 12))
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    return [
        [turn(item("image", Image.fromarray(pixels)), "a", item("speech", sound(2.4))), turn("x", role="assistant")],
        [turn("text alone"), turn("y", role="assistant")],
        [turn(item("video", str(film)), "b", item("audio", sound(0.7)), item("speech", sound(0.3)))],
        [turn("c", item("video", str(silent)), item("image", picture()), "d"), turn("z", role="assistant")],
    ]


def encode(model: Any, processor: Any, modality: Modality, medium: Any) -> CachedMedium:
    """Run the encoders of one medium."""
    extractors = {m: getattr(processor, str(m.extractor_name)) for m in processor.modalities}
    units = UnitCollector(extractors, processor.layout, {}, 16_000)
    measures, features = units.load(modality, medium, "here"), units.features()
    with torch.no_grad():
        states = {
            m.key: model.model.run_encoder(m, features[m.feature_name]).last_hidden_state
            for m in MEDIA
            if m.feature_name in features
        }
    heard = processor.layout.video_sound
    if modality is Modality.VIDEO and heard is not None and heard not in states:
        encoder = model.config.encoder_config(heard)
        states[heard] = torch.empty(0, encoder.num_tokens, encoder.hidden_size)
    return CachedMedium(measures, states)


def replaced(chats: list[Chat], change: Callable[[Modality, Any], Any]) -> list[Chat]:
    """The conversations with other media."""

    def new(given: dict[str, Any]) -> dict[str, Any]:
        kind = given["type"]
        return given if kind == "text" else item(kind, change(Modality.from_key(kind), given[kind]))

    return [[{**turn, "content": [new(given) for given in turn["content"]]} for turn in chat] for chat in chats]


def learn(model: Any, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    labels = batch["input_ids"].masked_fill(batch["mm_token_type_ids"] != 0, -100)
    loss = model(**batch, labels=labels, output_router_logits=True).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_encoded_media_give_the_same_tokens_losses_and_gradients(parts: Any, chats: list[Chat]) -> None:
    model, processor = parts
    model.model.encoders.requires_grad_(False)
    encoded = replaced(chats, lambda modality, medium: encode(model, processor, modality, medium))
    raw, known = process(processor, chats), process(processor, encoded)
    for name in raw.keys() & known.keys():
        assert torch.equal(raw[name], known[name]), name
    assert raw.keys() ^ known.keys() == {"encoder_states", *(m.feature_name for m in MEDIA)}
    loss, gradients = learn(model, raw)
    found, others = learn(model, known)
    torch.testing.assert_close(found, loss, rtol=0, atol=1e-6)
    assert gradients.keys() == others.keys() and any("connectors" in name for name in gradients)
    for name, gradient in gradients.items():
        assert (gradient - others[name]).abs().max() <= 1e-6 * max(1, gradient.abs().max()), name


def test_only_what_is_encoded_is_not_loaded(parts: Any, chats: list[Chat]) -> None:
    """The frames of a clip may be encoded and its sound not, and the other way round."""
    model, processor = parts
    heard = processor.layout.video_sound
    for kept in ("video", heard) if heard else ("image",):

        def some(modality: Modality, medium: Any, kept: str = kept) -> Any:
            whole = encode(model, processor, modality, medium)
            if modality is Modality.VIDEO and heard:
                return CachedMedium(whole.measures, {kept: whole.states[kept]}, medium=medium)
            return whole if modality.key == kept else medium

        raw, known = process(processor, chats), process(processor, replaced(chats, some))
        assert torch.equal(raw["input_ids"], known["input_ids"])
        assert list(known["encoder_states"]) == [kept] and Modality.from_key(kept).feature_name not in known
        with torch.no_grad():
            torch.testing.assert_close(model(**known).logits, model(**raw).logits, rtol=0, atol=1e-5)


def test_encoded_media_are_counted_and_answered_alike(parts: Any, chats: list[Chat]) -> None:
    model, processor = parts
    encoded = replaced(chats, lambda modality, medium: encode(model, processor, modality, medium))
    assert [processor.count_tokens(chat) for chat in encoded] == [processor.count_tokens(chat) for chat in chats]
    raw, known = (process(processor, given, add_generation_prompt=True) for given in (chats, encoded))
    for options in ({}, {"num_beams": 2}):
        answers = [model.generate(**batch, max_new_tokens=4, do_sample=False, **options) for batch in (raw, known)]
        assert torch.equal(*answers)


def test_a_silent_clip_alone_has_no_sound(parts: Any, chats: list[Chat]) -> None:
    model, processor = parts
    silent = chats[3:]
    raw = process(processor, silent)
    known = process(processor, replaced(silent, lambda modality, medium: encode(model, processor, modality, medium)))
    assert set(known["encoder_states"]) == {"image", "video"}
    with torch.no_grad():
        torch.testing.assert_close(model(**known).logits, model(**raw).logits, rtol=0, atol=1e-5)


def test_what_was_encoded_otherwise_is_refused(model_folder: Path) -> None:
    model = AutoModelForMultimodalLM.from_pretrained(model_folder)
    processor = AutoProcessor.from_pretrained(model_folder)
    large = Image.new("RGB", (64, 64))
    image = encode(model, processor, Modality.IMAGE, large)
    with pytest.raises(
        ValueError, match=r"row 0, image 0: was encoded as 1 unit\(s\) of image, but the layout makes 5"
    ):
        process(processor, [turn(item("image", image))], image_max_tiles=4)
    with pytest.raises(ValueError, match="row 0, audio 0: was encoded as image, not as audio"):
        process(processor, [turn(item("audio", image))])
    with pytest.raises(ValueError, match="Some image of this call is encoded and some is not"):
        process(processor, [turn(item("image", image), item("image", large))])
    clip = encode(model, processor, Modality.VIDEO, [picture()])
    with pytest.raises(ValueError, match="was encoded without its sound"):
        process(processor, [turn(item("video", clip))], video_sound="speech")


def test_states_of_another_encoder_are_refused(model_folder: Path) -> None:
    model = AutoModelForMultimodalLM.from_pretrained(model_folder)
    processor = AutoProcessor.from_pretrained(model_folder)
    raw = process(processor, [turn(item("image", picture()))])
    states = model.model.run_encoder(Modality.IMAGE, raw["pixel_values"]).last_hidden_state
    with pytest.raises(ValueError, match=r"Pass pixel_values or encoder_states\['image'\], not both"):
        model(**raw, encoder_states={"image": states})
    text = {name: value for name, value in raw.items() if name != "pixel_values"}
    with pytest.raises(ValueError, match=r"encoder_states\['image'\] have the shape \(1, 2, 3\)"):
        model(**text, encoder_states={"image": torch.zeros(1, 2, 3)})
    with pytest.raises(ValueError, match="Unknown modality 'picture'"):
        model(**text, encoder_states={"picture": states})
    torch.testing.assert_close(model(**text, encoder_states={"image": states}).logits, model(**raw).logits)
