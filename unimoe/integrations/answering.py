"""Many prompts, answered in batches: those decoded alike together, longest first, answers in the order of the prompts.

prompts -> groups of equal decoding -> batches -> messages -> processor -> model.generate -> text
Messages are made batch by batch, so that only the media of one batch are in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import StoppingCriteriaList

from .decoding import Decoding, StopAtText
from .lmms_eval_media import Message


@dataclass(frozen=True)
class Row:
    """A conversation to come.

    Args:
        build: Makes the messages; called when its batch's turn comes.
        length: Of the text, to batch rows of similar length.
        where: Names it in errors: `task pope, doc 12`.
        task: Rows of one task share batches.
    """

    build: Callable[[], list[Message]]
    length: int
    where: str
    task: str

    def messages(self) -> list[Message]:
        """Make the messages.

        Raises:
            ValueError: If they cannot be made; names the row.
        """
        try:
            return self.build()
        except (ImportError, OSError, ValueError) as error:
            raise ValueError(f"{self.where}: {error}") from error


@dataclass(frozen=True)
class Prompt(Row):
    """A row to answer, and how the answer is decoded."""

    decoding: Decoding


@dataclass(frozen=True)
class Choice(Row):
    """A row and an answer to it whose likelihood is asked for."""

    answer: str


@dataclass(frozen=True)
class Answer:
    """A generated answer, and the tokens that went in and came out."""

    text: str
    input_tokens: int
    output_tokens: int


def answer_all(
    model: Any, processor: Any, prompts: Sequence[Prompt], *, batch_size: int, quiet: bool = False
) -> list[Answer]:
    """Answer prompts.

    Args:
        model: With `generate`.
        processor: Its processor.
        prompts: In any order.
        batch_size: Largest number of prompts in a batch.
        quiet: Show no progress.

    Returns:
        Answers in the order of the prompts.

    Raises:
        ValueError: If the processor refuses a prompt; it is named.
    """
    answers: list[Answer | None] = [None] * len(prompts)
    groups = [f"{prompt.task}\n{prompt.decoding.key}" for prompt in prompts]
    with tqdm(total=len(prompts), desc="answers", disable=quiet) as bar:
        for indices in make_batches([prompt.length for prompt in prompts], groups, batch_size):
            batch = [prompts[index] for index in indices]
            for index, answer in zip(indices, _answer_batch(model, processor, batch), strict=True):
                answers[index] = answer
            bar.update(len(batch))
    return [answer for answer in answers if answer is not None]


def score_all(
    model: Any, processor: Any, choices: Sequence[Choice], *, batch_size: int, quiet: bool = False
) -> list[tuple[float, bool]]:
    """Score given answers.

    Args:
        model: As for `answer_all`.
        processor: As for `answer_all`.
        choices: In any order.
        batch_size: As for `answer_all`.
        quiet: As for `answer_all`.

    Returns:
        In the order of the choices: the negative log-likelihood (nats) of the answer with its end token, summed over
        tokens, and whether greedy decoding would give it.

    Raises:
        ValueError: If the processor refuses a prompt; it is named.
    """
    scores = [(0.0, False)] * len(choices)
    with tqdm(total=len(choices), desc="likelihoods", disable=quiet) as bar:
        for indices in make_batches([choice.length for choice in choices], [c.task for c in choices], batch_size):
            batch = [choices[index] for index in indices]
            for index, score in zip(indices, _score_batch(model, processor, batch), strict=True):
                scores[index] = score
            bar.update(len(batch))
    return scores


def make_batches(lengths: Sequence[int], groups: Sequence[str], batch_size: int) -> Iterator[list[int]]:
    """Return the indices of the rows of each batch: one group alone, longest first, so that memory runs out at once or
    never.

    Args:
        lengths: Of the rows.
        groups: Rows of different groups never share a batch.
        batch_size: Largest number of rows in a batch.
    """
    for group in dict.fromkeys(groups):
        indices = [index for index, other in enumerate(groups) if other == group]
        indices.sort(key=lambda index: lengths[index], reverse=True)
        yield from (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))


def _answer_batch(model: Any, processor: Any, batch: Sequence[Prompt]) -> list[Answer]:
    conversations = [prompt.messages() for prompt in batch]
    inputs = _encode(model, processor, batch, conversations, padding_side="left", add_generation_prompt=True)
    prompt_length, decoding = inputs["input_ids"].shape[1], batch[0].decoding
    stops = StopAtText(processor.tokenizer, decoding.until, prompt_length)
    pad = processor.tokenizer.pad_token_id
    with torch.inference_mode():
        sequences = model.generate(
            **inputs,
            **decoding.options,
            pad_token_id=pad,
            stopping_criteria=StoppingCriteriaList([stops] if decoding.until else []),
        )
    answers = sequences[:, prompt_length:]  # (B, new tokens)
    texts = processor.batch_decode(answers, skip_special_tokens=True)
    taken, given = inputs["attention_mask"].sum(dim=1).tolist(), (answers != pad).sum(dim=1).tolist()
    return [Answer(decoding.cut(text), *counts) for text, *counts in zip(texts, taken, given, strict=True)]


def _score_batch(model: Any, processor: Any, batch: Sequence[Choice]) -> list[tuple[float, bool]]:
    conversations = [
        [*choice.messages(), {"role": "assistant", "content": [{"type": "text", "text": choice.answer}]}]
        for choice in batch
    ]
    inputs = _encode(model, processor, batch, conversations, return_assistant_tokens_mask=True)
    targets = inputs["input_ids"][:, 1:]  # (B, S - 1)
    is_answer = (inputs.pop("assistant_masks").bool() & inputs["attention_mask"].bool())[:, 1:]
    with torch.inference_mode():
        logits = model(**inputs, use_cache=False).logits[:, :-1][is_answer].float()  # (answer tokens, V)
    losses = torch.zeros(targets.shape, device=logits.device)
    losses[is_answer] = cross_entropy(logits, targets[is_answer], reduction="none")
    likely = ~is_answer
    likely[is_answer] = logits.argmax(dim=-1) == targets[is_answer]
    return list(zip(losses.sum(dim=1).tolist(), likely.all(dim=1).tolist(), strict=True))


def _encode(
    model: Any,
    processor: Any,
    batch: Sequence[Row],
    conversations: Sequence[list[Message]],
    **options: Any,
) -> dict[str, Tensor]:
    """Model inputs of conversations, on the model's device; features in its dtype. A refusal names the row."""
    call = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "padding": True, **options}
    try:
        inputs = processor.apply_chat_template(list(conversations), **call)
    except (ImportError, OSError, ValueError) as error:
        if len(batch) > 1:  # which row was it? Its own error is raised here
            for row, conversation in zip(batch, conversations, strict=True):
                _encode(model, processor, [row], [conversation], **options)
        problem = str(error).removeprefix("Row 0").removeprefix("row 0").lstrip(":, ")
        raise ValueError(f"{batch[0].where}: {problem}") from error
    return dict(inputs.to(model.device, dtype=model.dtype))


__all__ = ["Answer", "Choice", "Prompt", "answer_all", "make_batches", "score_all"]
