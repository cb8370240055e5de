"""The quickstart's start: a tokenizer trained on its texts, and a small model with random weights and its processor.

Two folders are written: `start`, from which the stages make the mixture of experts, and `start-dense`, the same model
with wider feed-forwards, so that it has as many active parameters as the mixture will have.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    ASTFeatureExtractor,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
    WhisperFeatureExtractor,
)

from unimoe import MEDIA, UniMoEConfig, UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.files.settings import Section
from unimoe.processing_unimoe import add_placeholder_tokens

PAD_TOKEN = "<|endoftext|>"
END_TOKEN = "<|im_end|>"
# Turns alternate, so that an end token says all that ChatML says in ten: half the tokens for short questions.
SHORT_TEMPLATE = (
    "{%- macro render(content) -%}"
    "{%- if content is string -%}{{- content -}}{%- else -%}{%- for item in content -%}"
    "{%- if item['type'] == 'text' -%}{{- item['text'] -}}{%- else -%}{{- '<|' ~ item['type'] ~ '|>' -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>' -}}"
    "{%- endmacro -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- render(message['content']) -}}{%- endgeneration -%}"
    "{%- else -%}{{- render(message['content']) -}}{%- endif -%}"
    "{%- endfor -%}"
)


class ModelConfig(Section):
    """Sizes of the quickstart's model: the recipe's `model`.

    Args:
        vocab_size: Size of the tokenizer, special tokens included.
        image_size: Side that pictures are resized to, in pixels.
        dense_factor: How many times wider the dense baseline's feed-forwards are: the experts that each token passes.
        config: Arguments of `UniMoEConfig`; vocabulary and token ids are filled in.
    """

    vocab_size: int
    image_size: int
    dense_factor: int = 2
    config: dict[str, Any]


def build_start(values: dict[str, Any], *, data: Path, output: Path, seed: int) -> dict[str, Path]:
    """Write the folders `start` and `start-dense`, each a model with its processor.

    Args:
        values: The recipe's `model`; see `ModelConfig`.
        data: Folder of the data files, whose training texts the tokenizer learns from.
        output: Folder that gets the two.
        seed: Seed of the random weights.

    Returns:
        The folders by name.
    """
    sizes = ModelConfig.model_validate(values)
    tokenizer = train_tokenizer(training_texts(data), vocab_size=sizes.vocab_size)
    folders = {}
    for name, factor in (("start", 1), ("start-dense", sizes.dense_factor)):
        config = build_config(sizes, tokenizer, width_factor=factor)
        folders[name] = output / name
        build_model(config, tokenizer, seed=seed).save_pretrained(folders[name])
        build_processor(config, tokenizer, image_size=sizes.image_size).save_pretrained(folders[name])
    return folders


def training_texts(data: Path) -> Iterator[str]:
    """Yield all texts of the training files, as the chat template will write them."""
    for path in sorted(data.glob("*_train.jsonl")):
        with open(path, encoding="utf-8") as file:
            for row in map(json.loads, file):
                for message in row["messages"]:
                    content = message["content"]
                    items = [{"text": content}] if isinstance(content, str) else content
                    yield "".join(item.get("text", "") for item in items)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the tokens of the chat template and the placeholders of all media."""
    special = [PAD_TOKEN, "<|im_start|>", END_TOKEN, *(str(modality.token) for modality in MEDIA)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD_TOKEN, eos_token=END_TOKEN, clean_up_tokenization_spaces=False
    )
    add_placeholder_tokens(tokenizer)
    return tokenizer


def build_config(sizes: ModelConfig, tokenizer: PreTrainedTokenizerFast, *, width_factor: int = 1) -> UniMoEConfig:
    """Fill vocabulary and token ids into the sizes; `width_factor` multiplies the width of the feed-forwards."""
    values = dict(sizes.config)
    text = dict(values.get("text_config", {}))
    text["intermediate_size"] = text["intermediate_size"] * width_factor
    text |= {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    ids = {f"{modality.key}_token_id": tokenizer.convert_tokens_to_ids(str(modality.token)) for modality in MEDIA}
    return UniMoEConfig(**{**values, **ids, "text_config": text})


def build_model(
    config: UniMoEConfig, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> UniMoEForConditionalGeneration:
    """Build a model with random weights; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UniMoEForConditionalGeneration(config)
    model.generation_config.update(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=32
    )
    return model


def build_processor(config: UniMoEConfig, tokenizer: PreTrainedTokenizerFast, *, image_size: int) -> UniMoEProcessor:
    """Build the processor whose features have the sizes that the configuration's towers take."""
    size = {"height": image_size, "width": image_size}
    audio, speech = config.audio_config, config.speech_config
    return UniMoEProcessor.from_config(
        config,
        tokenizer,
        chat_template=SHORT_TEMPLATE,
        image_processor=ViTImageProcessor(size=size) if config.vision_config else None,
        audio_feature_extractor=ASTFeatureExtractor(
            num_mel_bins=audio.tower_config.num_mel_bins, max_length=audio.tower_config.max_length
        )
        if audio
        else None,
        speech_feature_extractor=WhisperFeatureExtractor(
            feature_size=speech.tower_config.num_mel_bins,
            chunk_length=speech.tower_config.max_source_positions // 50,  # the encoder halves 100 frames per second
        )
        if speech
        else None,
    )
