"""`python -m benchmarks.showcase.start OUT`: the models that the showcase's stages begin with, one folder for each.

Pretrained towers, which stay frozen, and a language model and connectors with random weights. Whatever has the same
name and shape in two systems begins with the same values.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ViTImageProcessor, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from training.config.recipe import load_recipe
from training.quickstart.build import (
    SHORT_TEMPLATE,
    ModelConfig,
    build_config,
    build_model,
    train_tokenizer,
    training_texts,
)
from unimoe import UniMoEConfig, UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.build.towers import encoder_config, load_tower
from unimoe.errors.terminal import fail, plain
from unimoe.files.settings import Section
from unimoe.moe.counting import count_parameters

DEFAULT_CONFIG = Path("configs/showcase/recipe.yaml")
_FRAMES_PER_SECOND = 50  # of Whisper's encoder


class ShowcaseConfig(Section):
    """The recipe's `model`.

    Args:
        data: Folder of the data files, whose training texts the tokenizer learns from.
        image: Folder of the picture's tower.
        speech: Folder of a Whisper, whose encoder is the tower of speech and of sounds.
        vocab_size: Size of the tokenizer, special tokens included.
        image_size: Side that pictures are resized to, in pixels.
        window_seconds: Length of a window of speech or sound, in whole seconds; Whisper's own is 30.
        text: Fields of `text_config` that all systems have.
        connectors: Encoder key -> fields of its connector.
        systems: Name -> fields of `text_config` that are its own.
    """

    data: Path
    image: Path
    speech: Path
    vocab_size: int
    image_size: int
    window_seconds: int
    text: dict[str, Any]
    connectors: dict[str, dict[str, Any]]
    systems: dict[str, dict[str, Any]]


class Towers:
    """The pretrained towers with their extractors, by encoder key.

    Args:
        config: Where they are, and what they take.

    Raises:
        FileNotFoundError: If there is no such folder.
    """

    def __init__(self, config: ShowcaseConfig) -> None:
        for folder in (config.image, config.speech):
            if not (folder / "config.json").is_file():
                raise FileNotFoundError(f"{folder} holds no model. Run: python -m training.real_parts {folder.parent}")
        size = {"height": config.image_size, "width": config.image_size}
        whisper = cut_whisper(load_tower(config.speech, torch.float32), seconds=config.window_seconds)
        self.towers = {
            "image": load_tower(config.image, torch.float32),
            "audio": whisper,  # trained for speech alone; its states tell sounds apart all the same
            "speech": whisper,
        }
        sounds = WhisperFeatureExtractor(feature_size=whisper.config.num_mel_bins, chunk_length=config.window_seconds)
        self.extractors = {"image": ViTImageProcessor(size=size), "audio": sounds, "speech": sounds}
        self.fields = {key: encoder_config(key, tower, self.extractors[key]) for key, tower in self.towers.items()}

    def put_into(self, model: UniMoEForConditionalGeneration) -> None:
        """Give a model their weights."""
        for key, tower in self.towers.items():
            model.model.encoders[key].tower.load_state_dict(tower.state_dict())


def cut_whisper(encoder: PreTrainedModel, *, seconds: int) -> WhisperEncoder:
    """Return a Whisper encoder for shorter windows: of its positions, a table of sines, the first ones stay."""
    positions = seconds * _FRAMES_PER_SECOND
    config = type(encoder.config).from_dict({**encoder.config.to_dict(), "max_source_positions": positions})
    weights = encoder.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][:positions]
    shorter = WhisperEncoder._from_config(config)
    shorter.load_state_dict(weights)
    return shorter.eval()


def system_config(
    config: ShowcaseConfig, system: str, tokenizer: PreTrainedTokenizerFast, encoders: dict[str, dict[str, Any]]
) -> UniMoEConfig:
    """Put the configuration of a system together.

    Args:
        config: The recipe's `model`.
        system: Its name.
        tokenizer: With the placeholders.
        encoders: Encoder key -> fields of its encoder's configuration.
    """
    values = {
        "text_config": {**config.text, **config.systems[system]},
        "tie_word_embeddings": config.text.get("tie_word_embeddings", False),
        "initializer_range": config.text.get("initializer_range", 0.02),
        "vision_config": encoders["image"],
        "audio_config": encoders["audio"],
        "speech_config": encoders["speech"],
        **{f"{key}_connector_config": fields for key, fields in config.connectors.items()},
    }
    sizes = ModelConfig(vocab_size=config.vocab_size, image_size=config.image_size, config=values)
    return build_config(sizes, tokenizer)


def build_starts(values: dict[str, Any], *, output: Path, seed: int) -> Iterator[tuple[Path, str]]:
    """Write a folder for each system, `start-SYSTEM`: model and processor.

    Args:
        values: The recipe's `model`; see `ShowcaseConfig`.
        output: Folder that gets them.
        seed: Seed of the random weights.

    Yields:
        Each folder, and how many parameters its model has.
    """
    config = ShowcaseConfig.model_validate(values)
    towers = Towers(config)
    tokenizer = train_tokenizer(training_texts(config.data), vocab_size=config.vocab_size)
    drawn: dict[tuple[str, tuple[int, ...]], Tensor] = {}
    for system in config.systems:
        system_values = system_config(config, system, tokenizer, towers.fields)
        model = build_model(system_values, tokenizer, seed=seed)
        share_weights(model, drawn)
        towers.put_into(model)
        folder = output / f"start-{system}"
        processor(system_values, tokenizer, towers).save_pretrained(folder)
        model.save_pretrained(folder)
        yield folder, describe(model)


def share_weights(model: UniMoEForConditionalGeneration, drawn: dict[tuple[str, tuple[int, ...]], Tensor]) -> None:
    """Give a model the values of the systems before it wherever name and shape are the same; remember the others."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            known = drawn.setdefault((name, tuple(parameter.shape)), parameter.detach().clone())
            parameter.copy_(known)


def processor(config: UniMoEConfig, tokenizer: PreTrainedTokenizerFast, towers: Towers) -> UniMoEProcessor:
    """Make the processor of a system."""
    return UniMoEProcessor.from_config(
        config,
        tokenizer,
        chat_template=SHORT_TEMPLATE,
        image_processor=towers.extractors["image"],
        audio_feature_extractor=towers.extractors["audio"],
        speech_feature_extractor=towers.extractors["speech"],
    )


def describe(model: UniMoEForConditionalGeneration) -> str:
    """Say how many parameters a model has."""
    sizes = measure_sizes(model)
    return (
        f"{sizes.total:,} parameters beside the towers, {sizes.active:,} active, "
        f"{sizes.feed_forward / sizes.active:.0%} of these in feed-forwards"
    )


class Sizes(NamedTuple):
    """Parameters of a model without its towers: all, those that a token passes, those of these in feed-forwards."""

    total: int
    active: int
    feed_forward: int


def measure_sizes(model: UniMoEForConditionalGeneration) -> Sizes:
    """Count the parameters outside the towers; all connectors are active, though a token passes one at most."""
    counts, layers = count_parameters(model), model.model.language_model.layers
    towers = sum(parameter.numel() for parameter in model.model.encoders.parameters())
    feed_forward = sum(parameter.numel() for layer in layers for parameter in layer.mlp.parameters())
    unmet = counts["total"] - counts["active"]  # experts that a token does not pass
    return Sizes(counts["total"] - towers, counts["active"] - towers, feed_forward - unmet)


def main(
    out: Annotated[Path, typer.Argument(help="Folder that gets start-SYSTEM/ for each system.")],
    config: Annotated[Path, typer.Option(help="Recipe whose `model` describes them.")] = DEFAULT_CONFIG,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key.sub=value, as for `training`.")] = None,
) -> None:
    """Write the showcase's starting models, after `benchmarks.showcase.data` and `training.real_parts`."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    console = Console()
    try:
        recipe = load_recipe(config, overrides or [])
        for folder, text in build_starts(recipe.model, output=out, seed=recipe.seed):
            console.print(plain(f"{folder}: {text}, seed {recipe.seed}"), highlight=False, soft_wrap=True)
    except (ValueError, FileNotFoundError) as error:
        fail(error)


if __name__ == "__main__":
    typer.run(main)
