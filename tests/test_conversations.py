"""Any conversation: what was said and shown reaches the model, whole and in order, or one known refusal says why not.

The text is rendered here a second time, by hand, so that the template and the processor are compared with something.
"""

import re
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from tiny_processor import first, item, picture, process, runs, sound, turn
from transformers import AutoModelForMultimodalLM, AutoProcessor

from unimoe.modality import MEDIA

REFUSALS = (
    r"row \d+, message \d+: content(\[\d+\]\.text)?: the text holds <\|\w+\|>, which",
    r"row \d+: \d+ of \d+ <\|\w+\|> tokens remain after tokenization with truncation=True, max_length=\d+",
)
SHOWN: dict[str, list[Any]] = {
    "image": [picture(250), picture(9), first("image_kind", "*.png"), str(first("image_kind", "*.png"))],
    "video": [[picture(shade) for shade in (0, 80, 160)], [picture()], {"frames": [picture()] * 9, "fps": 3.0}],
    "audio": [sound(0.01), sound(0.8), {"array": sound(0.3), "sampling_rate": 8_000}],
    "speech": [sound(0.2), sound(1.3), first("spoken_word", "*.flac")],
}
PLACEHOLDERS = re.compile("|".join(re.escape(str(modality.token)) for modality in MEDIA))

words = st.text(max_size=12) | st.sampled_from(["", " ", "\n", "<|im_end|>", "<|pad|>", "🦊é漢", "a\u0301", "{{ x }}"])
media = st.sampled_from([(kind, number) for kind, choices in SHOWN.items() for number in range(len(choices))])
texts = st.builds(lambda text: {"type": "text", "text": text}, words)
shows = st.builds(lambda chosen: item(chosen[0], SHOWN[chosen[0]][chosen[1]]), media)
messages = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["system", "user", "assistant", "user", "assistant"]),
    words | st.lists(texts | shows | shows, max_size=4),
)
conversations = st.lists(messages, min_size=1, max_size=4)
batches = st.lists(conversations, min_size=1, max_size=3)
options = st.fixed_dictionaries(
    {"add_generation_prompt": st.booleans()},
    optional={
        "padding_side": st.sampled_from(["left", "right"]),
        "truncated": st.integers(1, 600),
    },
)


@pytest.fixture(scope="module")
def loaded(model_folder: Path) -> tuple[Any, Any]:
    return AutoProcessor.from_pretrained(model_folder), AutoModelForMultimodalLM.from_pretrained(model_folder).eval()


def said(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part["type"] == "text")


def rendered(conversation: list[dict[str, Any]], *, prompt: bool) -> str:
    """ChatML without media."""
    turns = "".join(f"<|im_start|>{message['role']}\n{said(message)}<|im_end|>\n" for message in conversation)
    return turns + "<|im_start|>assistant\n" * prompt


def shown(conversation: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Kinds and media in order."""
    contents = [message["content"] for message in conversation if not isinstance(message["content"], str)]
    return [(part["type"], part[part["type"]]) for content in contents for part in content if part["type"] != "text"]


def tokens_alone(processor: Any, kind: str, medium: Any) -> int:
    """Tokens of one medium, by itself."""
    return sum(
        size for _, size in runs(process(processor, [turn(item(kind, medium))])["mm_token_type_ids"][0].tolist())
    )


def check_row(
    processor: Any, row: dict[str, torch.Tensor], conversation: list[Any], *, prompt: bool, cut: bool
) -> None:
    """One row without padding: its text, its media in order, and its assistant mask."""
    text = processor.tokenizer.decode(row["input_ids"])
    expected = rendered(conversation, prompt=prompt)
    kept = PLACEHOLDERS.sub("", text)
    assert kept.rstrip("\ufffd") == expected[: len(kept.rstrip("\ufffd"))] if cut else kept == expected
    kinds = [MEDIA[value - 1].key for value in row["mm_token_type_ids"].tolist() if value]
    assert kinds == [
        kind for kind, medium in shown(conversation) for _ in range(tokens_alone(processor, kind, medium))
    ]
    learned = processor.tokenizer.decode(row["input_ids"][row["assistant_masks"].bool()])
    answers = "".join(f"{said(message)}<|im_end|>" for message in conversation if message["role"] == "assistant")
    assert answers.startswith(learned.rstrip("\ufffd")) if cut else learned == answers


def check_counts(processor: Any, inputs: Any, batch: list[list[Any]]) -> None:
    for modality in MEDIA:
        features = inputs.get(str(modality.feature_name))
        placeholders = int((inputs["mm_token_type_ids"] == int(modality)).sum())
        given_media = sum([kind for kind, _ in shown(conversation)].count(modality.key) for conversation in batch)
        assert (features is None) == (given_media == 0)
        if features is not None:
            assert len(features) >= given_media
            assert placeholders == len(features) * processor.layout.num_tokens[modality.key]


@settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(batch=batches, chosen=options)
def test_any_conversation_reaches_the_model_whole_or_is_refused(loaded, batch, chosen):
    processor, model = loaded
    length = chosen.get("truncated")
    arguments = {name: value for name, value in chosen.items() if name != "truncated"}
    if length is not None:
        arguments |= {"truncation": True, "max_length": length}
    try:
        inputs = process(processor, batch, return_assistant_tokens_mask=True, **arguments)
    except ValueError as error:
        assert any(re.match(refusal, str(error)) for refusal in REFUSALS), error
        return
    check_counts(processor, inputs, batch)
    with torch.no_grad():
        logits = model(**{name: value for name, value in inputs.items() if name != "assistant_masks"}).logits
    for number, conversation in enumerate(batch):
        real = inputs["attention_mask"][number].bool()
        names = ("input_ids", "mm_token_type_ids", "assistant_masks")
        row = {name: inputs[name][number][real] for name in names}
        check_row(processor, row, conversation, prompt=chosen["add_generation_prompt"], cut=length is not None)
        alone = process(processor, conversation, **arguments)
        with torch.no_grad():
            expected = model(**alone).logits[0]
        assert torch.isfinite(expected).all()
        torch.testing.assert_close(logits[number][real], expected, atol=1e-4, rtol=1e-4)


@settings(
    deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(conversation=conversations, place=st.integers(0, 3), token=st.sampled_from([str(m.token) for m in MEDIA]))
def test_a_placeholder_in_any_text_is_refused(loaded, conversation, place, token):
    message = conversation[place % len(conversation)]
    message["content"] = f"{said(message)}{token}"
    with pytest.raises(ValueError, match=REFUSALS[0]):
        process(loaded[0], conversation)
