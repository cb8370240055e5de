"""What the description of every release needs: checks of config.json, the tokenizer, and parts put together."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..build.model import compose_config, placeholder_ids
from ..configuration_unimoe import UniMoEConfig, UniMoETextConfig
from ..files.folder import AGAIN, CheckpointError
from ..modality import MEDIA, Modality
from ..processing_unimoe import UniMoEProcessor
from .parts import Folders

_OF_TOKENIZER = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "vocab.json")
_BESIDE_IT = ("merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")


class Sense(NamedTuple):
    """An encoder and its connector: fields of their configurations, the extractor, and the tower.

    Args:
        encoder: Fields of the encoder's configuration.
        connector: Fields of the connector's.
        extractor: Image processor or feature extractor.
        tower: With its weights. None: these are among the release's own.
    """

    encoder: dict[str, Any]
    connector: dict[str, Any]
    extractor: Any
    tower: PreTrainedModel | None = None


class Description(NamedTuple):
    """What a release becomes.

    Args:
        config: Of the model.
        processor: Of the model. None: the release came without a tokenizer.
        towers: Encoder key -> tower from a folder of its own.
    """

    config: UniMoEConfig
    processor: UniMoEProcessor | None
    towers: dict[str, PreTrainedModel]


def check_values(config: dict[str, Any], only: dict[str, tuple[Any, ...]], folder: Path) -> None:
    """Refuse a release whose configuration says what the model cannot have.

    Args:
        config: Of the release.
        only: Field -> the values that the model can have; None stands for a field that is not there.
        folder: Of the configuration.

    Raises:
        CheckpointError: Naming the field, and the values that can be.
    """
    for name, values in only.items():
        if config.get(name) not in values:
            known = " or ".join(repr(value) for value in values if value is not None or len(values) == 1)
            raise CheckpointError(
                folder, f"its config.json has {name} {config.get(name)!r}; {known} can be converted."
            )


def check_numbers(config: dict[str, Any], names: Iterable[str], folder: Path) -> None:
    """Refuse a release whose configuration lacks a number that its code reads.

    Args:
        config: Of the release.
        names: Of the fields.
        folder: Of the configuration.

    Raises:
        CheckpointError: Naming the field.
    """
    for name in names:
        if not isinstance(value := config.get(name), int | float) or isinstance(value, bool):
            raise CheckpointError(folder, f"its config.json has {name} {value!r}; a number is needed. {AGAIN}")


def read_tokenizer(
    kind: type[PreTrainedTokenizerBase], folders: Folders, **options: Any
) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of a base; None if the folder has none.

    Args:
        kind: Its class.
        folders: Of the release.
        **options: Of the class.

    Raises:
        CheckpointError: If it cannot be loaded.
    """
    folder = folders.base
    if not any((folder / name).is_file() for name in _OF_TOKENIZER):
        return None
    folders.read.update(folder / name for name in (*_OF_TOKENIZER, *_BESIDE_IT))
    try:
        return kind.from_pretrained(folder, **options)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())
        raise CheckpointError(
            folder,
            f"its tokenizer cannot be read ({why}). A tokenizer.model needs `pip install sentencepiece protobuf`.",
        ) from error


def put_together(
    text: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase | None,
    senses: dict[str, Sense],
    media: dict[str, Any],
    template: str,
) -> Description:
    """Compose configuration and processor; the vocabulary grows if the ids of placeholders do not fit into it.

    Args:
        text: Fields of the language model's configuration, the vocabulary of the release among them.
        tokenizer: With placeholders. None: their ids follow the vocabulary.
        senses: Encoder key -> encoder and connector.
        media: Fields of `MediaLayout`.
        template: Of chats.
    """
    size: int = text["vocab_size"]
    ids = {f"{modality.key}_token_id": size + number for number, modality in enumerate(MEDIA)}
    if tokenizer is not None:
        ids = placeholder_ids(tokenizer)
    language = UniMoETextConfig(**{**text, "vocab_size": max(size, *(number + 1 for number in ids.values()))})
    ours = compose_config(language, ids, {key: (s.encoder, s.connector) for key, s in senses.items()}, media)
    extractors = {str(Modality.from_key(key).extractor_name): sense.extractor for key, sense in senses.items()}
    towers = {key: sense.tower for key, sense in senses.items() if sense.tower is not None}
    if tokenizer is None:
        return Description(ours, None, towers)
    processor = UniMoEProcessor.from_config(ours, tokenizer, **extractors, chat_template=template)
    return Description(ours, processor, towers)


__all__ = ["Description", "Sense", "check_numbers", "check_values", "put_together", "read_tokenizer"]
