"""Placeholders: where media stand in a text. The chat template writes one for each medium; they are matched with the
media row by row and repeated to the number of tokens that each medium fills.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

from transformers import PreTrainedTokenizerBase, processing_utils

from ..errors import DataError
from ..media import is_picture
from ..modality import MEDIA, SOUNDS, Modality

CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
PLACEHOLDER_OF_ITEM = "'<|' ~ item['type'] ~ '|>'"
"""Jinja: the placeholder of a message's item."""


def content_macro(medium: str) -> str:
    """Return the macro `render` of a chat template, which makes text of a message's content.

    Args:
        medium: Jinja expression of what stands for a medium, such as `PLACEHOLDER_OF_ITEM`.
    """
    return (
        "{%- macro render(content) -%}"
        "{%- if content is string -%}{{- content -}}{%- else -%}{%- for item in content or [] -%}"
        f"{{%- if item['type'] == 'text' -%}}{{{{- item['text'] -}}}}{{%- else -%}}{{{{- {medium} -}}}}{{%- endif -%}}"
        "{%- endfor -%}{%- endif -%}"
        "{%- endmacro -%}"
    )


def without_system(text: str) -> str:
    """Return the piece of a chat template that writes a text where no message of the role `system` comes first."""
    return f"{{%- if not messages or messages[0]['role'] != 'system' -%}}{{{{- {json.dumps(text)} -}}}}{{%- endif -%}}"


CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' ~ message['role'] ~ '\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- render(message['content']) ~ '<|im_end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- render(message['content']) ~ '<|im_end|>' -}}{%- endif -%}"
    "{{- '\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""The turns of ChatML, behind the macro `render`; an assistant's, end token included, is a generation block."""
CHAT_TEMPLATE = content_macro(PLACEHOLDER_OF_ITEM) + CHATML
"""ChatML. A media item renders to its placeholder."""

# Private in transformers: keeps placeholders that `sanitize_control_tokens` has marked as plain text out of matches.
_UNMARKED = getattr(processing_utils, "_UNMARKED", "")
PLACEHOLDER = re.compile(_UNMARKED + "(?:" + "|".join(re.escape(str(modality.token)) for modality in MEDIA) + ")")
_BY_TOKEN = {str(modality.token): modality for modality in MEDIA}
_BATCH_DIMENSIONS = {Modality.IMAGE: 4, Modality.VIDEO: 5}


class MediaRows(list[list[Any]]):
    """One list of media for each row of the batch: what a nested list means need not be guessed."""


def add_placeholder_tokens(tokenizer: PreTrainedTokenizerBase, chat_tokens: Sequence[str] = CHAT_TOKENS) -> int:
    """Add the placeholders of all media and the tokens of the chat template as special tokens, where missing.

    Args:
        tokenizer: Changed in place. The language model's embeddings must then be resized to `len(tokenizer)`.
        chat_tokens: Tokens of the chat template; those of `CHAT_TEMPLATE` by default.

    Returns:
        How many tokens were added to the vocabulary.
    """
    before = len(tokenizer)
    tokenizer.add_tokens([*chat_tokens, *_BY_TOKEN], special_tokens=True)
    return len(tokenizer) - before


def placeholder_id(tokenizer: PreTrainedTokenizerBase, modality: Modality) -> int | None:
    """Id of a modality's placeholder; None if the tokenizer would split it."""
    token_id = tokenizer.get_vocab().get(str(modality.token))
    return token_id if token_id in tokenizer.added_tokens_decoder else None


def require_placeholder_id(tokenizer: PreTrainedTokenizerBase, modality: Modality) -> int:
    """Id of a modality's placeholder.

    Raises:
        ValueError: If the tokenizer would split it.
    """
    token_id = placeholder_id(tokenizer, modality)
    if token_id is None:
        raise ValueError(
            f"The tokenizer has no token {modality.token} for {modality.key}. Call "
            "unimoe.processing_unimoe.add_placeholder_tokens(tokenizer) first."
        )
    return token_id


def check_placeholder_ids(tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
    """Refuse a tokenizer whose placeholders are not those of a model.

    Args:
        tokenizer: With placeholders.
        config: A `UniMoEConfig`; `media_layout` and `*_token_id` are read.

    Raises:
        ValueError: Naming the first placeholder, and both ids.
    """
    for modality in (m for m in MEDIA if m.key in config.media_layout.grids):
        wanted, found = getattr(config, f"{modality.key}_token_id"), placeholder_id(tokenizer, modality)
        if found != wanted:
            raise ValueError(
                f"The tokenizer's id of {modality.token} is {found}, the configuration's {modality.key}_token_id is "
                f"{wanted}. Call add_placeholder_tokens(tokenizer) if it is None, then set "
                f"config.{modality.key}_token_id to the tokenizer's."
            )


def count_placeholders(text: str, modality: Modality) -> int:
    """How many placeholders of this modality the text holds; those marked as plain text do not count."""
    return sum(token == modality.token for token in PLACEHOLDER.findall(text))


def find_placeholders(text: str) -> list[tuple[Modality, int]]:
    """Modality of each placeholder in order, and how many of that modality stand before it."""
    seen: Counter[Modality] = Counter()
    found = []
    for token in PLACEHOLDER.findall(text):
        modality = _BY_TOKEN[token]
        found.append((modality, seen[modality]))
        seen[modality] += 1
    return found


def order_of_appearance(
    media: dict[Modality, list[list[Any]]], texts: list[str] | None
) -> list[list[tuple[Modality, int, int]]]:
    """Find in which order media are to be loaded: modality, row, and index within the row's media of that modality.

    Args:
        media: Modality -> media of each row.
        texts: Whose placeholders say the order, a list for each. None: one list for all, modality by modality.
    """
    if texts is not None:
        return [[(m, row, index) for m, index in find_placeholders(text)] for row, text in enumerate(texts)]
    return [[(m, row, i) for m, rows in media.items() for row, held in enumerate(rows) for i in range(len(held))]]


def hears(found: Sequence[tuple[Any, ...]]) -> bool:
    """Whether there is a sound among media, each told by its modality and numbers."""
    return any(modality in SOUNDS for modality, *_ in found)


def expand_placeholders(text: str, blocks: Sequence[str]) -> tuple[str, list[dict[str, Any]]]:
    """Replace every placeholder of a text by the block of its medium.

    Args:
        text: One row.
        blocks: For each placeholder in order, what stands for its medium.

    Returns:
        The expanded text, and one record for each placeholder in the form that transformers uses to shift character
        positions: `type`, `span` before, `new_span` after, `text`, `replacement`.
    """
    pieces, offsets, end, gained = [], [], 0, 0
    for match, block in zip(PLACEHOLDER.finditer(text), blocks, strict=True):
        token, modality = match.group(), _BY_TOKEN[match.group()]
        pieces += [text[end : match.start()], block]
        start, end = match.span()
        new_span = (start + gained, start + gained + len(block))
        offsets.append(
            {"type": modality.key, "span": (start, end), "new_span": new_span, "text": token, "replacement": block}
        )
        gained += len(block) - len(token)
    return "".join([*pieces, text[end:]]), offsets


def check_kept(
    texts: Sequence[str], input_ids: list[list[int]], token_ids: Mapping[Modality, int], limits: Mapping[str, Any]
) -> None:
    """Refuse rows whose blocks of media the tokenizer has cut.

    Args:
        texts: Rows with their blocks.
        input_ids: Tokens of each.
        token_ids: Id of each placeholder.
        limits: Arguments that made it cut, for the error.

    Raises:
        DataError: If placeholders are missing.
    """
    for row, (text, ids) in enumerate(zip(texts, input_ids, strict=True)):
        for modality, token_id in token_ids.items():
            expected, found = count_placeholders(text, modality), list(ids).count(token_id)
            if expected != found:
                given = ", ".join(f"{name}={value}" for name, value in limits.items())
                raise DataError(
                    f"row {row}",
                    f"{found} of {expected} {modality.token} tokens remain after tokenization with {given}: "
                    "a block of media would be cut.",
                    "Do not truncate, raise max_length, or leave out the medium.",
                )


class Held:
    """A medium within a message, which templates and what copies messages shall not look into."""

    def __init__(self, medium: Any) -> None:
        self.medium = medium


def collect_media(conversations: Sequence[Sequence[dict[str, Any]]]) -> dict[Modality, MediaRows]:
    """Media of the items of each conversation by modality, in order of appearance.

    Args:
        conversations: As `unimoe.processing.messages` reads them, each medium held.
    """
    found = {modality: MediaRows([] for _ in conversations) for modality in MEDIA}
    for row, messages in enumerate(conversations):
        contents = (message["content"] for message in messages if not isinstance(message["content"], str))
        for item in (item for content in contents for item in content):
            if isinstance(held := item.get(item["type"]), Held):
                found[Modality.from_key(item["type"])][row].append(held.medium)
    return found


def arrange_media(media: Any, modality: Modality, counts: list[int] | None) -> list[list[Any]]:
    """Give each row its media, from any accepted layout.

    Args:
        media: One medium, a flat list in order of appearance, one list for each row, or None for none.
        modality: Their modality.
        counts: Placeholders in each row. None: there is no text, and nothing is compared.

    Raises:
        ValueError: If the numbers of placeholders and media differ; it names the row and both numbers.
    """
    if isinstance(media, Sequence) and not isinstance(media, (list, tuple, str, bytes, bytearray, memoryview)):
        media = list(media)  # a column of `datasets`
    items = [] if media is None else [media] if _is_one(media, modality) else list(media)
    nested = isinstance(media, MediaRows) or any(
        isinstance(item, (list, tuple)) and not _is_one(item, modality) for item in items
    )
    if media is None and counts is not None:
        rows: list[list[Any]] = [[] for _ in counts]
    elif nested:
        rows = [list(row) if isinstance(row, (list, tuple)) else [] if row is None else [row] for row in items]
    elif counts is not None and len(items) == sum(counts):
        remaining = iter(items)
        rows = [[next(remaining) for _ in range(count)] for count in counts]
    else:
        rows = [items]
    if counts is not None:
        _check_counts(rows, modality, counts)
    return rows


def _check_counts(rows: list[list[Any]], modality: Modality, counts: list[int]) -> None:
    token, key = modality.token, modality.key
    if len(rows) != len(counts):
        raise DataError(
            "the call",
            f"found {sum(counts)} {token} placeholder(s) in {len(counts)} row(s) (by row: {counts}), but "
            f"{sum(map(len, rows))} {key} item(s) in {len(rows)} list(s).",
            f"Pass one list of {key} items for each row, or a flat list with one for each placeholder.",
        )
    for row, (count, in_row) in enumerate(zip(counts, rows, strict=True)):
        if count != len(in_row):
            raise DataError(
                f"row {row}",
                f"found {count} {token} placeholder(s) but {len(in_row)} {key} item(s).",
                "Write one placeholder in the text for each, and give every item its medium "
                f"({key!r}, 'path' or 'url').",
            )


def _is_one(media: Any, modality: Modality) -> bool:
    """Whether this is one medium and not several: a list may hold the frames of a clip, or samples as numbers."""
    if not isinstance(media, (list, tuple)):
        return getattr(media, "ndim", None) != _BATCH_DIMENSIONS.get(modality, -1)
    if modality is Modality.VIDEO:
        return len(media) > 0 and all(map(is_picture, media))
    return modality is not Modality.IMAGE and len(media) > 0 and isinstance(media[0], Number)


__all__ = [
    "CHATML",
    "CHAT_TEMPLATE",
    "PLACEHOLDER_OF_ITEM",
    "Held",
    "MediaRows",
    "add_placeholder_tokens",
    "arrange_media",
    "check_kept",
    "check_placeholder_ids",
    "collect_media",
    "content_macro",
    "count_placeholders",
    "expand_placeholders",
    "find_placeholders",
    "hears",
    "order_of_appearance",
    "placeholder_id",
    "require_placeholder_id",
    "without_system",
]
