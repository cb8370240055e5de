"""What running frozen encoders once saves: a training step on media, and on their tokens read from disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from training.encoder_cache.store import CacheEntry, CacheStore
from unimoe import Modality, UniMoEConfig, UniMoEForConditionalGeneration
from unimoe.encoders import measure_tower

from .timing import Case

TEXT: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 576,  # SmolLM2-135M's layers, a few of them
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
VISION: dict[str, Any] = {  # ViT-S/16
    "model_type": "clip_vision_model",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "patch_size": 16,
    "image_size": 224,
}
SPEECH = {  # whisper-tiny.en
    "model_type": "whisper",
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
}
PLACEHOLDERS = {Modality.IMAGE: 2046, Modality.SPEECH: 2047}
FEATURES = {Modality.IMAGE: (3, 224, 224), Modality.SPEECH: (80, 3000)}
BATCH, WORDS = 2, 32


def config() -> UniMoEConfig:
    """Small towers in front of a few layers: 49 tokens for a picture, 100 for 30 s of speech."""
    tower = AutoConfig.for_model(**VISION)
    return UniMoEConfig(
        text_config=TEXT,
        vision_config={"tower_config": VISION, **measure_tower(tower, FEATURES[Modality.IMAGE])},
        image_connector_config={"stack": 4},
        speech_config={"tower_config": SPEECH},
        speech_connector_config={"stack": 15},
        image_token_id=PLACEHOLDERS[Modality.IMAGE],
        video_token_id=2045,
        speech_token_id=PLACEHOLDERS[Modality.SPEECH],
    )


def batch_of(model: UniMoEForConditionalGeneration, modality: Modality) -> dict[str, Tensor]:
    """Rows with one medium each, and words behind it, which are learned."""
    tokens = model.config.num_tokens[modality.key]
    words = torch.randint(PLACEHOLDERS[Modality.IMAGE], (BATCH, WORDS))
    ids = torch.cat([torch.full((BATCH, tokens), PLACEHOLDERS[modality]), words], dim=1)
    labels = ids.masked_fill(ids == PLACEHOLDERS[modality], -100)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def step(model: UniMoEForConditionalGeneration, batch: dict[str, Tensor], media: Callable[[], Any]) -> Callable:
    """Forward and backward pass."""

    def run() -> Tensor:
        model.zero_grad()
        loss = model(**batch, **media(), use_cache=False).loss
        loss.backward()
        return loss.detach()

    return run


def encoder_cache() -> Iterator[Case]:
    """Peers train the connectors on the same media; features are extracted already, tokens are read from disk."""
    model = UniMoEForConditionalGeneration(config()).train()
    model.requires_grad_(False)
    model.model.connectors.requires_grad_(True)
    model.model.encoders.eval()
    for modality, shape in FEATURES.items():
        features = {str(modality.feature_name): torch.randn(BATCH, *shape)}
        with torch.no_grad():
            states = model.model.run_encoder(modality, *features.values()).last_hidden_state
        with TemporaryDirectory() as folder:
            keys = [number.to_bytes(16, "big") for number in range(BATCH)]
            store = CacheStore(Path(folder))
            for key, unit in zip(keys, states, strict=True):
                store.add(key, CacheEntry([], unit[None]))
            store.flush()
            store.refresh()

            def kept(modality: Modality = modality, store: CacheStore = store, keys: list[bytes] = keys) -> Any:
                return {"encoder_states": {modality.key: torch.cat([store[key].states for key in keys])}}

            batch = batch_of(model, modality)
            peers = {
                "encoder at every step": step(model, batch, features.copy),
                "encoder once": step(model, batch, kept),
            }
            facts = {"encoder once": {"kB a unit on disk": states[0].nbytes / 1e3}}
            yield Case(f"training step, {BATCH} rows with {modality.key}", peers, facts)


__all__ = ["encoder_cache"]
