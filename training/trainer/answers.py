"""Greedy answers to a few validation rows: how many are right, and how many are distinct."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from unimoe import Modality, UniMoEProcessor

from ..data import Row, Sample

ANSWER_TOKENS = 32
"""Longest answer that is generated, in tokens with its end."""


class Answered(NamedTuple):
    """An answer to a row: the number of its data file, what the model said, and what the label says."""

    file: int
    answer: str
    label: str


def reference(row: Row) -> str | None:
    """Text of a row's last answer; None where it has a medium, or there is no answer."""
    turn = _last_answer(row.messages)
    content = row.messages[turn]["content"] if turn is not None else []
    is_text = content and all(item["type"] == Modality.TEXT.key for item in content)
    return "".join(item["text"] for item in content) if is_text else None


def _last_answer(messages: Sequence[dict[str, Any]]) -> int | None:
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    return turns[-1] if turns else None


@dataclass
class Prompts:
    """Turn samples into the inputs of `generate`: all that stands before their last answer, padded on the left.

    Args:
        processor: Of the model.
    """

    processor: UniMoEProcessor

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Process a batch."""
        inputs = self.processor.apply_chat_template(
            [sample.messages[: _last_answer(sample.messages)] for sample in samples],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_generation_prompt=True,
        )
        return dict(inputs)


@torch.no_grad()
def generate_answers(
    model: Any, processor: UniMoEProcessor, inputs: dict[str, Any], *, max_new_tokens: int
) -> list[str]:
    """Answer the rows of a batch greedily.

    Args:
        model: A `UniMoEForConditionalGeneration` in evaluation mode.
        processor: Of the model.
        inputs: As `Prompts` makes them, on the model's device.
        max_new_tokens: Tokens after which an answer is cut off.
    """
    sequences = model.generate(
        **inputs, do_sample=False, num_beams=1, use_cache=True, max_new_tokens=max_new_tokens, max_length=None
    )
    answers = sequences[:, inputs["input_ids"].shape[1] :]  # (B, new tokens)
    return [text.strip() for text in processor.batch_decode(answers, skip_special_tokens=True)]


def why_not_generated(model: nn.Module, *, partitions: bool, expert_parallel_size: int) -> str:
    """Say why a model cannot answer while it trains. Empty: it can.

    Args:
        model: It.
        partitions: Whether ZeRO-3 has partitioned its weights.
        expert_parallel_size: Processes that share its experts.
    """
    text_config: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
    if text_config.generation_obstacle:
        return f"a model with router_type={text_config.router_type!r} cannot generate"
    if partitions or expert_parallel_size > 1:
        what = "under ZeRO-3" if partitions else "with sharded experts"
        return f"{what}, processes would wait for each other"
    return ""


def describe_answers(answered: Iterable[Answered], names: Sequence[str]) -> dict[str, float]:
    """Name what the answers of all processes tell.

    Args:
        answered: They.
        names: Of the data files.

    Returns:
        `eval_exact_match`, the share that equals the label but for case and spaces; `eval_distinct_answers` and
        `eval_distinct_labels`; of all, and `/FILE` of each file if there are several.
    """
    found = list(answered)
    groups = {"": found}
    if len(names) > 1:
        groups |= {f"/{name}": [each for each in found if each.file == file] for file, name in enumerate(names)}
    named: dict[str, float] = {}
    for suffix, rows in groups.items():
        if rows:
            pairs = [(fold(row.answer), fold(row.label)) for row in rows]
            named[f"eval_exact_match{suffix}"] = sum(answer == label for answer, label in pairs) / len(pairs)
            named[f"eval_distinct_answers{suffix}"] = len({answer for answer, _ in pairs})
            named[f"eval_distinct_labels{suffix}"] = len({label for _, label in pairs})
    return named


def fold(text: str) -> str:
    """Write in lower case, with single spaces."""
    return " ".join(text.lower().split())


__all__ = ["Answered", "Prompts", "describe_answers", "generate_answers", "reference", "why_not_generated"]
