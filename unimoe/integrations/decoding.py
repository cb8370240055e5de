"""How an answer is decoded: a harness's generation arguments become those of `model.generate`, and its stop texts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.utils import logging

logger = logging.get_logger(__name__)

SAMPLING = frozenset({"temperature", "top_p", "top_k", "min_p"})
TAKEN = SAMPLING | {
    "max_new_tokens",
    "min_new_tokens",
    "do_sample",
    "num_beams",
    "early_stopping",
    "length_penalty",
    "no_repeat_ngram_size",
    "repetition_penalty",
}
"""Arguments of `model.generate` that a request may set."""


@dataclass(frozen=True)
class Decoding:
    """Generation arguments of one request.

    Args:
        options: Of `model.generate`.
        until: Texts at the first of which an answer ends; they are no part of it.
    """

    options: Mapping[str, Any]
    until: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Equal for requests that may share a batch."""
        return json.dumps([dict(self.options), self.until], sort_keys=True)

    def cut(self, text: str) -> str:
        """End an answer before the first stop text in it."""
        ends = [text.find(stop) for stop in self.until if stop in text]
        return text[: min(ends, default=len(text))]


def read_decoding(arguments: Mapping[str, Any], *, max_new_tokens: int) -> Decoding:
    """Read a request's generation arguments.

    Tokens are sampled if `do_sample` says so, or if it is not given and `temperature` is above 0; a temperature of 0
    is greedy in any case. Without sampling, arguments of sampling are left out. Arguments that `model.generate` does
    not know, such as LLaVA's `image_aspect_ratio`, are left out with a warning.

    Args:
        arguments: As lmms-eval's tasks state them, `until` among them.
        max_new_tokens: Longest answer if the request names none, tokens.

    Raises:
        ValueError: If `until` is neither text nor a list of texts.
    """
    until = arguments.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    if not all(isinstance(stop, str) for stop in until):
        raise ValueError(f"until={until!r}: expected a text or a list of texts")
    if left_out := sorted(arguments.keys() - TAKEN - {"until"}):
        logger.warning_once(f"generation arguments that are left out: {', '.join(left_out)}")
    options = {name: arguments[name] for name in sorted(TAKEN & arguments.keys()) if arguments[name] is not None}
    temperature = options.get("temperature")
    options["do_sample"] = bool(options.get("do_sample", bool(temperature))) and temperature != 0
    if not options["do_sample"]:
        options = {name: value for name, value in options.items() if name not in SAMPLING}
    return Decoding({"max_new_tokens": max_new_tokens, **options}, tuple(stop for stop in until if stop))


_MARGIN = 8
"""Further tokens that are decoded: special ones, and a space that tokenizers drop at the beginning."""


class StopAtText(StoppingCriteria):
    """End each row of a batch when its answer holds one of the texts, wherever tokens begin and end.

    transformers' `stop_strings` also matches a text that begins in the prompt; this looks at the answer alone.

    Args:
        tokenizer: Decodes answers.
        until: The texts.
        prompt_length: Tokens of the padded prompt.
    """

    def __init__(self, tokenizer: Any, until: tuple[str, ...], prompt_length: int) -> None:
        self.tokenizer = tokenizer
        self.until = until
        self.prompt_length = prompt_length
        self.window = max((len(stop.encode()) for stop in until), default=0) + _MARGIN

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Say which rows end, (rows,), of the tokens so far, (rows, tokens)."""
        start = max(self.prompt_length, input_ids.shape[1] - self.window)  # a token is a byte or more
        texts = self.tokenizer.batch_decode(input_ids[:, start:], skip_special_tokens=True)
        ended = [any(stop in text for stop in self.until) for text in texts]
        return torch.tensor(ended, device=input_ids.device)


__all__ = ["Decoding", "StopAtText", "read_decoding"]
