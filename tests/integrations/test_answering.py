"""Prompts are answered in batches; what is answered does not depend on them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_processor import item, picture, sound, turn

from unimoe.checkpoint.loading import load_model, load_processor
from unimoe.integrations.answering import Choice, Prompt, answer_all, make_batches, score_all
from unimoe.integrations.decoding import read_decoding

ASKED = [
    (item("image", picture(200)), "what is it?"),
    (item("audio", sound(0.3)), "what do you hear, and where does it come from?"),
    ("hello",),
    (item("speech", sound(0.6)), "which word?"),
    ("one", item("image", picture(10)), "and", item("image", picture(90)), "differ"),
    (item("video", [picture(0), picture(99)]), "what moves?"),
]


@pytest.fixture(scope="module")
def parts(model_folder: Path) -> tuple[Any, Any]:
    model = load_model(model_folder)
    return model, load_processor(model_folder, model.config)


def prompt(number: int, *content: Any, task: str = "t", **arguments: Any) -> Prompt:
    text = " ".join(part for part in content if isinstance(part, str))
    decoding = read_decoding(arguments, max_new_tokens=6)
    return Prompt(lambda: [turn(*content)], len(text), f"task {task}, doc {number}", task, decoding)


def texts(parts: tuple[Any, Any], prompts: list[Prompt], batch_size: int) -> list[str]:
    return [answer.text for answer in answer_all(*parts, prompts, batch_size=batch_size, quiet=True)]


def test_batches_hold_one_group_each_and_begin_with_the_longest() -> None:
    lengths, groups = [3, 9, 5, 1, 7], ["a", "b", "a", "a", "b"]
    assert list(make_batches(lengths, groups, 2)) == [[2, 0], [3], [1, 4]]


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 2}])
def test_answers_are_in_the_order_of_the_prompts_whatever_the_batch(parts, arguments: dict) -> None:
    prompts = [prompt(number, *content, **arguments) for number, content in enumerate(ASKED)]
    alone = [texts(parts, [one], 1)[0] for one in prompts]
    assert len(set(alone)) > 2, "answers that are alike show no order"
    assert texts(parts, prompts, 1) == texts(parts, prompts, 4) == texts(parts, prompts, 6) == alone


def test_requests_that_are_decoded_differently_never_share_a_batch(parts, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = parts
    calls: list[tuple[int, int]] = []
    generate = type(model).generate

    def note(self: Any, **options: Any) -> Any:
        calls.append((options["max_new_tokens"], len(options["input_ids"])))
        return generate(self, **options)

    monkeypatch.setattr(type(model), "generate", note)
    prompts = [prompt(number, "hello", max_new_tokens=2 + number % 2) for number in range(6)]
    answers = answer_all(*parts, prompts, batch_size=6, quiet=True)
    assert calls == [(2, 3), (3, 3)]
    assert [answer.output_tokens for answer in answers] == [2, 3] * 3


def test_an_answer_ends_at_its_stop_text_and_no_row_waits_for_another(parts) -> None:
    prompts = [prompt(number, *content, max_new_tokens=12) for number, content in enumerate(ASKED)]
    whole = texts(parts, prompts, 3)
    stop = next(text[4] for text in whole if len(text) > 4)
    stopped = [prompt(number, *content, max_new_tokens=12, until=[stop]) for number, content in enumerate(ASKED)]
    expected = [text.split(stop)[0] for text in whole]
    assert texts(parts, stopped, 1) == texts(parts, stopped, 3) == expected != whole
    ending = [number for number, text in enumerate(whole) if 0 <= text.find(stop) < len(text) - 1]
    longer, shorter = (
        [answer.output_tokens for answer in answer_all(*parts, [of[number] for number in ending], batch_size=3)]
        for of in (prompts, stopped)
    )
    assert ending and all(short < long for short, long in zip(shorter, longer, strict=True))


def test_counts_of_tokens_leave_padding_out(parts) -> None:
    short, long = prompt(0, "hi"), prompt(1, "a much longer question than the other")
    together = answer_all(*parts, [short, long], batch_size=2, quiet=True)
    apart = [answer_all(*parts, [one], batch_size=1, quiet=True)[0] for one in (short, long)]
    assert together == apart and together[0].input_tokens < together[1].input_tokens


def test_what_cannot_be_asked_is_named(parts) -> None:
    missing = prompt(7, item("image", "nowhere.png"), "what?", task="pope")
    with pytest.raises(ValueError, match=r"task pope, doc 7: .*there is no file 'nowhere.png'"):
        answer_all(*parts, [prompt(1, "hello", task="pope"), missing], batch_size=2, quiet=True)


def test_media_are_made_when_their_batch_is_due(parts) -> None:
    made: list[int] = []

    def build(number: int) -> Any:
        made.append(number)
        return [turn("hello")]

    decoding = read_decoding({"max_new_tokens": 1}, max_new_tokens=1)
    prompts = [Prompt(lambda n=n: build(n), 10 - n, f"doc {n}", "t", decoding) for n in range(4)]
    seen: list[int] = []
    model, processor = parts
    generate = type(model).generate

    class Watched:
        device, dtype = model.device, model.dtype

        def generate(self, **options: Any) -> Any:
            seen.append(len(made))
            return generate(model, **options)

    answer_all(Watched(), processor, prompts, batch_size=2, quiet=True)
    assert seen == [2, 4]


def choice(number: int, answer: str, *content: Any) -> Choice:
    return Choice(lambda: [turn(*content)], len(answer), f"task t, doc {number}", "t", answer)


def test_likelihoods_are_those_of_the_answers_tokens_in_any_batch(parts) -> None:
    choices = [choice(n, answer, *content) for n, content in enumerate(ASKED) for answer in ("A", "no idea")]
    alone = score_all(*parts, choices, batch_size=1, quiet=True)
    together = score_all(*parts, choices, batch_size=5, quiet=True)
    assert [loss for loss, _ in together] == pytest.approx([loss for loss, _ in alone], rel=1e-4)
    model, processor = parts
    inputs = processor.apply_chat_template(
        [turn(*ASKED[0])], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    added = torch.tensor([processor.tokenizer.encode("A<|im_end|>")])
    length = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], added], dim=1)
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        inputs[name] = torch.cat([inputs[name], torch.full_like(added, value)], dim=1)
    with torch.no_grad():
        logs = model(**inputs).logits[0, length - 1 : -1].log_softmax(dim=-1)
    assert alone[0][0] == pytest.approx(-logs.gather(1, added.T).sum().item(), rel=1e-5)


def test_an_answer_is_greedy_only_if_each_of_its_tokens_is(parts) -> None:
    model, processor = parts

    class Foreseeing:
        """Foretells every token, but not a question mark."""

        device, dtype = model.device, model.dtype

        def __call__(self, input_ids: Any, **_: Any) -> Any:
            foretold = input_ids.roll(-1, dims=1)
            foretold = foretold.masked_fill(foretold == processor.tokenizer.encode("?")[0], 0)
            return SimpleNamespace(logits=torch.nn.functional.one_hot(foretold, len(processor.tokenizer)))

    choices = [choice(number, answer, "is it?") for number, answer in enumerate(("yes", "yes?", "no", "?"))]
    scores = score_all(Foreseeing(), processor, choices, batch_size=4, quiet=True)
    assert [is_greedy for _, is_greedy in scores] == [True, False, True, False]
