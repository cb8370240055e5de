"""The arguments of a processor's call: sorted by the part that takes them, text and pictures in either order; and
tokenizers that pad for generation."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.processing_utils import ImagesKwargs, TextKwargs

from ..configuration.media_layout import CALL_OPTIONS
from ..errors import DataError, MediaError
from ..errors.suggest import did_you_mean
from ..media import Limits

SAMPLING_RATE = 16_000
"""Hz; the rate of sounds that are passed as bare samples, unless `sampling_rate=` says otherwise."""
_UNSUPPORTED = "text_pair text_target text_pair_target is_split_into_words return_overflowing_tokens stride"
_TEXT_OPTIONS = frozenset(TextKwargs.__annotations__).difference(_UNSUPPORTED.split(), ["return_tensors"])
_FLAGS = ("return_mm_token_type_ids", "return_text_replacement_offsets")
_OWN_OPTIONS = (*_FLAGS, *CALL_OPTIONS, "sampling_rate", "limits", "text_kwargs", "images_kwargs")
_ORDER = "Pass them by name: processor(text=..., images=...)."


@dataclass
class Options:
    """Keyword arguments of one call, sorted by the part that takes them."""

    text: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, Any] = field(default_factory=dict)
    return_tensors: str | None = None
    sampling_rate: int = SAMPLING_RATE
    limits: Limits | None = None
    return_mm_token_type_ids: bool = True
    return_text_replacement_offsets: bool = False


def sort_options(kwargs: dict[str, Any], image_processor: Any, *, mm_token_type_ids: bool) -> Options:
    """Sort the keyword arguments of a call by the part that takes them.

    Args:
        kwargs: As the caller gave them, some nested as `text_kwargs` and `images_kwargs`.
        image_processor: Whose own arguments are known too; None: there is none.
        mm_token_type_ids: Whether they are returned if the caller does not say.

    Raises:
        ValueError: If an argument is unknown.
    """
    kwargs, image_options = dict(kwargs), _image_options(image_processor)
    options = Options(return_mm_token_type_ids=mm_token_type_ids)
    options.text.update(kwargs.pop("text_kwargs", {}))
    options.images.update(kwargs.pop("images_kwargs", {}))
    for nested in (options.text, options.images):
        if "return_tensors" in nested:
            kwargs.setdefault("return_tensors", nested.pop("return_tensors"))
    for key, value in kwargs.items():
        if key in CALL_OPTIONS:
            options.layout[key] = value
        elif key in _OWN_OPTIONS or key == "return_tensors":
            setattr(options, key, value)
        elif key in _TEXT_OPTIONS:
            options.text[key] = value
        elif key in image_options:
            options.images[key] = value
        else:
            known = known_options(image_processor) | {"images", "videos", "audio", "speech"}
            raise ValueError(f"UniMoEProcessor got the unknown argument {key!r}.{did_you_mean(key, known)}")
    for flag in _FLAGS:
        setattr(options, flag, options.text.pop(flag, getattr(options, flag)))
    return options


def known_options(image_processor: Any) -> set[str]:
    """Names of the keyword arguments that a call takes beside text and media."""
    return {*_TEXT_OPTIONS, *_OWN_OPTIONS, *_image_options(image_processor)}


def _image_options(image_processor: Any) -> frozenset[str]:
    own = getattr(getattr(image_processor, "valid_kwargs", None), "__annotations__", {})
    return frozenset({*ImagesKwargs.__annotations__, *own} - {"return_tensors"})


def pad_for_generation(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a tokenizer pad left, and say so when it is saved, unless it was made with a `padding_side`.

    Pipelines pad with the tokenizer's own side; after padding on the right, an answer would begin behind it.
    """
    if "padding_side" not in tokenizer.init_kwargs:
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"


def in_order(images: Any, text: Any) -> tuple[Any, list[str] | None]:
    """Pictures, and the texts as a list, of which the caller may have passed one in the place of the other.

    Args:
        images: The first argument: pictures, or texts.
        text: The second one: a text or several, or pictures. None: there was none.

    Raises:
        DataError: If neither is a text, or the first is a conversation.
    """
    if _is_conversation(images) or _is_conversation(text):
        raise DataError(
            "the call of the processor",
            "a conversation was passed, not text.",
            "Pass it to apply_chat_template(conversation, tokenize=True, return_dict=True).",
        )
    texts = as_texts(text)
    if text is None or texts is not None:
        return images, texts
    if (swapped := as_texts(images)) is None:
        raise DataError("text", f"it is a {type(text).__name__}, and neither a text nor a list of texts.", _ORDER)
    return text, swapped


def as_texts(value: Any) -> list[str] | None:
    """One text, or several, as a list; None if it is something else."""
    if isinstance(value, str):
        return [value]
    if hasattr(value, "dtype") and getattr(value.dtype, "kind", "") not in ("O", "U", "T"):
        return None  # an array or tensor of numbers
    if hasattr(value, "__iter__") and not isinstance(value, (bytes, dict)):
        values = list(value)
        return values if all(isinstance(item, str) for item in values) else None
    return None


def _is_conversation(value: Any) -> bool:
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    first = first[0] if isinstance(first, (list, tuple)) and first else first
    return isinstance(first, dict) and "role" in first and "content" in first


@contextmanager
def explaining(images: Any, texts: list[str] | None) -> Iterator[None]:
    """Where pictures were named by strings alone and one of them names none, say that a text goes in `text=`.

    Args:
        images: What was passed as pictures.
        texts: What was passed as texts. None: none, so that `images` may hold them.
    """
    try:
        yield
    except ValueError as error:
        if texts is None and as_texts(images):
            raise MediaError(f"{error} If this is no picture but a text, pass processor(text=...).") from error
        raise


__all__ = [
    "SAMPLING_RATE",
    "Options",
    "as_texts",
    "explaining",
    "in_order",
    "known_options",
    "pad_for_generation",
    "sort_options",
]
