"""The classes that lmms-eval calls, behind a stub of the three classes of lmms-eval that they need."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_processor import picture, sound

from unimoe.checkpoint.loading import find_device
from unimoe.integrations.lmms_eval import manifests

ADAPTERS = ("unimoe.integrations.lmms_eval_chat", "unimoe.integrations.lmms_eval_simple")


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class GenerationResult:
    text: Any
    token_counts: TokenCounts | None = None


class Base:
    rank = 0

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}


@dataclass(frozen=True)
class Manifest:
    model_id: str
    chat_class_path: str
    simple_class_path: str


@dataclass
class Request:
    """As lmms-eval's `Instance`."""

    args: tuple[Any, ...]
    doc_id: int = 0
    task_name: str = "t"
    metadata: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def adapters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports an adapter's class on top of the stub."""
    stubs = {
        "lmms_eval.api.instance": {"GenerationResult": GenerationResult, "TokenCounts": TokenCounts},
        "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
    }
    for name, contents in stubs.items():
        parts = name.split(".")
        for end in range(1, len(parts)):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ADAPTERS:
        monkeypatch.delitem(sys.modules, name, raising=False)

    def load(path: str) -> Any:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)

    yield load
    for name in ADAPTERS:
        sys.modules.pop(name, None)


@pytest.fixture
def chat(adapters: Any, model_folder: Path) -> Any:
    return with_docs(adapters(manifests().chat_class_path)(str(model_folder), device="cpu", batch_size="4"))


@pytest.fixture
def simple(adapters: Any, model_folder: Path) -> Any:
    return with_docs(adapters(manifests().simple_class_path)(str(model_folder), device="cpu", batch_size=4))


def with_docs(client: Any) -> Any:
    """Questions of unequal length about a picture, a sound, a clip, nothing, and all of these."""
    heard = {"array": sound(0.4), "sampling_rate": 16_000}
    media = ([picture(200)], [heard], [[picture(0), picture(99)]], [], [picture(9), heard, picture(90)])
    docs = [{"number": n, "media": media[n % 5], "text": "what is it? " * (n % 3 + 1)} for n in range(9)]
    client.task_dict = {"t": {"test": docs}}
    return client


def messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = {dict: "audio", list: "video"}
    items = [{"type": kinds.get(type(medium), "image"), "url": medium} for medium in doc["media"]]
    return [{"role": "user", "content": [*items, {"type": "text", "text": doc["text"]}]}]


def visual(doc: dict[str, Any]) -> list[Any]:
    return doc["media"]


def chat_requests(made: Callable[..., Any] = messages, **arguments: Any) -> list[Request]:
    options = {"max_new_tokens": 4, "until": ["\n\n"], **arguments}
    return [Request(("ctx" * (n % 4), made, dict(options), n, "t", "test"), n) for n in range(9)]


def texts(results: list[GenerationResult]) -> list[Any]:
    return [result.text for result in results]


def test_both_classes_are_what_lmms_eval_takes_them_for(adapters: Any) -> None:
    manifest = manifests()
    assert manifest.model_id == "unimoe"
    for path, is_simple in ((manifest.chat_class_path, False), (manifest.simple_class_path, True)):
        model_class = adapters(path)
        assert issubclass(model_class, Base) and model_class.is_simple is is_simple


def test_answers_are_in_the_order_of_the_requests_and_count_their_tokens(chat: Any) -> None:
    requests = chat_requests()
    together = chat.generate_until(requests)
    assert len(set(texts(together))) > 2
    chat.batch_size = 1
    assert chat.generate_until(requests) == together
    assert chat.generate_until(requests[::-1]) == together[::-1]
    assert all(0 < result.token_counts.output_tokens <= 4 for result in together)


def test_chat_and_simple_ask_the_same(chat: Any, simple: Any) -> None:
    docs = chat.task_dict["t"]["test"]
    requests = [
        Request((doc["text"], {"max_new_tokens": 4, "until": ["\n\n"]}, visual, number, "t", "test"), number)
        for number, doc in enumerate(docs)
    ]
    assert simple.generate_until(requests) == chat.generate_until(chat_requests())


def test_media_that_lmms_eval_cannot_map_are_taken_from_the_task(chat: Any) -> None:
    """A chat class and a built-in task of sounds: lmms-eval refuses the decoders that `datasets` gives."""

    class Decoder:
        def get_all_samples(self) -> Any:
            return SimpleNamespace(data=torch.from_numpy(sound(0.4))[None], sample_rate=16_000)

    class Task:
        def doc_to_messages(self, doc: Any) -> Any:
            raise TypeError(f"Unsupported visual type: {Decoder}")

        def doc_to_visual(self, doc: Any) -> Any:
            return [Decoder()]

        def doc_to_text(self, doc: Any) -> str:
            return "what do you hear?"

    def mapped(doc: Any) -> Any:
        sound_item = {"type": "audio", "url": {"array": sound(0.4), "sampling_rate": 16_000}}
        return [{"role": "user", "content": [sound_item, {"type": "text", "text": "what do you hear?"}]}]

    assert chat.generate_until(chat_requests(Task().doc_to_messages)) == chat.generate_until(chat_requests(mapped))


def test_an_error_of_the_task_itself_is_not_swallowed(chat: Any) -> None:
    def broken(doc: Any) -> Any:
        raise TypeError("the task's own mistake")

    with pytest.raises(TypeError, match="the task's own mistake"):
        chat.generate_until(chat_requests(broken))


def test_rounds_go_on_until_the_task_ends_them(chat: Any) -> None:
    asked: list[tuple[int, int, Any]] = []

    def rounds(
        doc: Any, *, round_idx: Any = None, previous_output: Any = None, previous_round_info: Any = None
    ) -> Any:
        if round_idx is None:
            return messages(doc)
        number = doc["number"]
        asked.append((number, round_idx, previous_round_info))
        assert len(previous_output) == round_idx
        if round_idx > number % 3:
            return None, True, previous_output, None
        content = [{"type": "text", "text": f"before: {previous_output[-1]}"}]
        return [{"role": "user", "content": content}], False, previous_output, f"note {round_idx}"

    results = texts(chat.generate_until_multi_round(chat_requests(rounds)))
    assert [len(result) for result in results] == [1, 2, 3] * 3
    assert (2, 2, "note 1") in asked and (2, 1, None) in asked
    chat.batch_size = 1
    assert texts(chat.generate_until_multi_round(chat_requests(rounds))) == results
    assert [rounds[0] for rounds in results] == texts(chat.generate_until(chat_requests()))


def test_a_task_that_never_ends_is_named(chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(doc: Any, *, round_idx: Any = None, previous_output: Any = None, **_: Any) -> Any:
        return messages(doc) if round_idx is None else (messages(doc), False, previous_output, None)

    monkeypatch.setattr(sys.modules[type(chat).__module__], "MAX_ROUNDS", 3)
    with pytest.raises(ValueError, match="task t, doc 0: the task has not ended after 3 rounds"):
        chat.generate_until_multi_round(chat_requests(endless, max_new_tokens=1)[:2])


def test_rounds_of_a_simple_task_may_replace_the_answers(simple: Any) -> None:
    def doc_to_text(doc: Any, *, round_idx: int, previous_output: list[str], previous_round_info: Any) -> Any:
        if round_idx == 2:
            return None, None, True, [*previous_output, None], None
        return visual(doc), f"and <image>? {previous_output[-1]}", False, previous_output, None

    request = Request(("what?", {"max_new_tokens": 3}, visual, doc_to_text, 0, "t", "test"), 0)
    (answers,) = texts(simple.generate_until_multi_round([request]))
    assert len(answers) == 3 and all(answers[:2]) and answers[2] is None


def test_likelihoods_are_pairs_in_the_order_of_the_requests(simple: Any) -> None:
    options = [" A", " no idea", " B"]
    requests = [Request(("what?", option, visual, 0, "t", "test"), 0) for option in options]
    requests.append(Request(("", "A"), 3))
    scores = texts(simple.loglikelihood(requests))
    assert all(loss > 0 and isinstance(is_greedy, bool) for loss, is_greedy in scores)
    assert scores[1][0] == max(loss for loss, _ in scores), "the longest answer is the least likely"
    assert simple.loglikelihood(requests[::-1])[::-1] == pytest.approx(simple.loglikelihood(requests))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": "auto"}, "--batch_size auto: unimoe takes a number of 1 or more."),
        ({"batch_size": 0}, "--batch_size 0: unimoe takes a number of 1 or more."),
        ({"dtpe": "float16"}, "--model_args: unimoe takes no 'dtpe'. Did you mean 'dtype'?"),
        ({"sound": "spech"}, "--model_args: sound='spech' is no kind of sound. Did you mean 'speech'?"),
        ({"max_batch_size": 8}, "--model_args: unimoe takes no 'max_batch_size'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_loaded(adapters: Any, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        adapters(manifests().chat_class_path)("no/such/folder", **arguments)


def test_a_gpu_without_a_number_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert find_device("cuda") == torch.device("cuda:2")
    assert find_device("cuda:1") == torch.device("cuda:1")
    assert find_device("cpu") == torch.device("cpu")
