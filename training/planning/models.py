"""The models that the stages of a recipe will start from, by their configurations: no weight is read or made.

A stage may start from what an earlier one of the recipe writes, long before there is such a folder, and from
pretrained parts that are not there: `configs/parts` describes those of the recipes at the reference's scales.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from unimoe import UniMoEConfig, UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.build import describe_model
from unimoe.checkpoint.loading import HUB_ID, load_processor, read_config
from unimoe.errors import ConfigError
from unimoe.files.folder import CheckpointError
from unimoe.surgery.assemble import assembled_config
from unimoe.surgery.extension import extended_config, extended_processor

from ..config.build import BuildConfig
from ..config.stage import AssembleConfig, ExtendConfig, StageConfig

PARTS = Path(__file__).parents[2] / "configs" / "parts"
"""Folders by name of a pretrained part: its configuration, its feature extractor, and for a language model a tokenizer
whose tokens are bytes."""


@dataclass(frozen=True)
class DescribedModel:
    """A model that does not exist yet, or was not loaded.

    Args:
        config: Its configuration.
        processor: Its processor.
        sources: Bytes of the models that are in memory while it is composed or assembled; 0 for one that is loaded.
        absent: Pretrained parts of it that are neither there nor in the cache of the Hub; `PARTS` describes them.
    """

    config: UniMoEConfig
    processor: UniMoEProcessor
    sources: int = 0
    absent: tuple[str, ...] = ()


class DescribedRecipe:
    """What has been planned: folders -> models that stages will write there."""

    def __init__(self) -> None:
        self.outputs: dict[str, DescribedModel] = {}

    def begin(self, config: StageConfig) -> DescribedModel:
        """Describe the model that a stage begins with.

        Raises:
            ConfigError: If neither an earlier stage makes a model that it needs, nor is there one.
        """
        start = config.start
        try:
            if start.build is not None:
                return self._compose(start.build)
            if start.assemble is not None:
                return self._assemble(start.assemble)
            if start.extend is not None:
                return self._extend(start.extend)
            return self.find(start.specialists.base if start.specialists else start.path or "")
        except (OSError, ValueError) as error:
            raise ConfigError(f"The start of the stage cannot be described: {error}") from error

    def end(self, config: StageConfig, model: DescribedModel) -> None:
        """Remember what a stage will write."""
        written = replace(model, sources=0)
        folders = [Path(config.output)]
        if config.start.specialists is not None:
            folders = [folders[0] / key for key in config.start.specialists.modalities]
        self.outputs |= {os.path.abspath(folder): written for folder in folders}

    def find(self, path: str) -> DescribedModel:
        """Describe a model that an earlier stage will write, or one that there is.

        Raises:
            ValueError: If it cannot be found, or is no unimoe model.
        """
        if planned := self.outputs.get(os.path.abspath(path)):
            return planned
        kind = read_config(path).get("model_type")
        if kind != UniMoEConfig.model_type:
            raise ValueError(f"{path} holds a {kind!r} model, not a unimoe model.")
        config = UniMoEConfig.from_pretrained(path)
        return DescribedModel(config, load_processor(path, config))

    def _compose(self, start: BuildConfig) -> DescribedModel:
        values = start.model_dump(exclude={"dtype"})
        names = {option: values[option] for option in ("language", "vision", "speech", "audio") if values[option]}
        found = {option: where_described(name) for option, name in names.items()}
        config, processor = describe_model(**values | found)
        absent = tuple(name for option, name in names.items() if found[option] != name)
        return DescribedModel(config, processor, sources=model_bytes(config), absent=absent)

    def _assemble(self, start: AssembleConfig) -> DescribedModel:
        base = self.find(start.base)
        experts = {key: [self.find(path) for path in paths] for key, paths in start.expert_folders.items()}
        config = assembled_config(
            base.config, {key: len(found) for key, found in experts.items()}, **start.arguments()
        )
        sources = [base, *(model for found in experts.values() for model in found)]
        size = sum(model_bytes(source.config) for source in sources)
        return DescribedModel(config, base.processor, sources=size, absent=base.absent)

    def _extend(self, start: ExtendConfig) -> DescribedModel:
        found = {key: self.find(path) for key, path in start.folders.items()}
        base, donor = found["base"], found.get("encoder_of")
        config = extended_config(
            base.config,
            encoder_of=donor.config if donor else None,
            tokenizer=base.processor.tokenizer,
            **start.arguments(),
        )
        processor = extended_processor(base.processor, config, donor.processor if donor else None)
        size = sum(model_bytes(source.config) for source in found.values())
        return DescribedModel(config, processor, sources=size, absent=base.absent)


def where_described(part: str) -> str:
    """Return a pretrained part, folder or Hub id, or the folder that describes it where the part is not to be had."""
    described = PARTS / part
    if Path(part).exists() or not HUB_ID.fullmatch(part) or not (described / "config.json").is_file():
        return part
    try:
        read_config(part)
    except CheckpointError:
        return str(described)
    return part


def model_bytes(config: UniMoEConfig) -> int:
    """Bytes of a model's weights in float32."""
    with torch.device("meta"):
        model: UniMoEForConditionalGeneration = UniMoEForConditionalGeneration._from_config(
            config, dtype=torch.float32
        )
    return sum(parameter.nbytes for parameter in model.parameters())


__all__ = ["DescribedModel", "DescribedRecipe", "model_bytes", "where_described"]
