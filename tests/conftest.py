"""Set-up for all tests: nothing is loaded from a hub, and one thread a process."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from tiny import tiny_config
from tiny_processor import byte_tokenizer, image_processor
from transformers import ASTFeatureExtractor, WhisperFeatureExtractor

from unimoe import Modality, UniMoEForConditionalGeneration, UniMoEProcessor

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Give every test the same chance, whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny sparse model with random weights and its processor: what a user would load."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer()
    config = tiny_config(vocab_size=len(tokenizer), num_experts=4, num_null_experts=1, modality_routing="bias")
    for modality in config.media:
        setattr(config, f"{modality.key}_token_id", tokenizer.convert_tokens_to_ids(Modality(modality).token))
    torch.manual_seed(0)
    UniMoEForConditionalGeneration(config).save_pretrained(folder)
    UniMoEProcessor.from_config(
        config,
        tokenizer,
        image_processor=image_processor(),
        audio_feature_extractor=ASTFeatureExtractor(max_length=56, num_mel_bins=32),
        speech_feature_extractor=WhisperFeatureExtractor(chunk_length=1, feature_size=80),
    ).save_pretrained(folder)
    return folder
