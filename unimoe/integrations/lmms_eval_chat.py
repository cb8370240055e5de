"""unimoe as a chat model of lmms-eval: tasks give messages, media stay where they stand among the text.

    lmms-eval eval --model unimoe --model_args pretrained=DIR --tasks pope --batch_size 8

Imported by lmms-eval alone, which must be installed. What the arguments mean and which traps of lmms-eval are met:
docs/lmms_eval.md.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms

from ..checkpoint.loading import find_device, load_model, load_processor
from ..errors.suggest import did_you_mean
from .answering import Answer, Choice, Prompt, answer_all, score_all
from .decoding import read_decoding
from .lmms_eval_media import SOUND_CHOICES, Message, SoundKey, sound_key, to_messages, user_turn

MAX_ROUNDS = 64
"""Of one request; a task that wants more has no end."""


class UniMoEChat(lmms):
    """A unimoe checkpoint that answers lmms-eval's requests.

    Args:
        pretrained: Model folder or Hub id.
        dtype: Of the weights: `auto` as they were saved, `float32`, `bfloat16`, `float16`.
        device: `cuda`, `cuda:1`, `cpu`. None: a GPU if there is one; of several processes, each takes its own.
        batch_size: Prompts answered together.
        max_new_tokens: Longest answer where a task names none, tokens.
        sound: What sounds are to the model: `auto`, `audio` or `speech`; see `sound_key`.
        unknown: Nothing else is taken.

    Raises:
        ValueError: If an argument is unknown, `batch_size` is no number, or `sound` another word.
        CheckpointError: If the folder cannot be loaded.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        *,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str = 1,
        max_new_tokens: int = 1024,
        sound: str = "auto",
        **unknown: Any,
    ) -> None:
        super().__init__()
        for name in unknown:
            known = ("pretrained", "dtype", "max_new_tokens", "sound")
            raise ValueError(f"--model_args: unimoe takes no {name!r}.{did_you_mean(name, known)}")
        if not str(batch_size).isdecimal() or not int(batch_size):
            raise ValueError(f"--batch_size {batch_size}: unimoe takes a number of 1 or more.")
        if sound not in SOUND_CHOICES:
            raise ValueError(f"--model_args: sound={sound!r} is no kind of sound.{did_you_mean(sound, SOUND_CHOICES)}")
        self.device = find_device(device)
        self.batch_size = int(batch_size)
        self.max_new_tokens = max_new_tokens
        self.sound = sound
        model: Any = load_model(pretrained, dtype=dtype)
        self.model = model.to(self.device)
        self.processor = load_processor(pretrained, self.model.config)

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request once.

        Args:
            requests: lmms-eval's; their generation arguments may differ.

        Returns:
            A `GenerationResult` for each request, in their order.
        """
        answers = self._answer([self._first_prompt(request) for request in requests])
        return [
            GenerationResult(answer.text, TokenCounts(answer.input_tokens, answer.output_tokens)) for answer in answers
        ]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests whose task asks again, given the answers so far; each round is a conversation of its own.

        Args:
            requests: lmms-eval's; round by round, those that are not at their end are answered together.

        Returns:
            For each request, in their order, a `GenerationResult` whose text is the list of its rounds' answers, or
            what the task made of them when it ended.

        Raises:
            ValueError: If a task does not end.
        """
        outputs: list[Any] = [[] for _ in requests]
        notes: list[Any] = [None] * len(requests)
        prompts = {index: self._first_prompt(request) for index, request in enumerate(requests)}
        for number in range(1, MAX_ROUNDS + 1):
            for index, answer in zip(prompts, self._answer(list(prompts.values())), strict=True):
                outputs[index].append(answer.text)
            asked_again = list(prompts)
            prompts = {}
            for index in asked_again:
                messages, is_end, result, notes[index] = self._next_round(
                    requests[index], number, list(outputs[index]), notes[index]
                )
                if is_end:
                    outputs[index] = list(outputs[index] if result is None else result)
                else:
                    prompts[index] = self._prompt(requests[index], messages)
            if not prompts:
                return [GenerationResult(rounds) for rounds in outputs]
        raise ValueError(f"{_where(requests[next(iter(prompts))])}: the task has not ended after {MAX_ROUNDS} rounds.")

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Score the answers that tasks of multiple choice give; needs `--force_simple`.

        lmms-eval takes the option of the *lowest* number, so this is the negative log-likelihood. It would turn a
        plain pair into text; a `GenerationResult` keeps it.

        Args:
            requests: (context, answer, doc_to_visual, doc_id, task, split), or (context, answer) without media.

        Returns:
            A `GenerationResult` for each request, in their order, whose text is the pair of `score_all`.
        """
        choices = [self._choice(request) for request in requests]
        scores = score_all(self.model, self.processor, choices, batch_size=self.batch_size, quiet=self.rank != 0)
        return [GenerationResult(score) for score in scores]

    def _answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        return answer_all(self.model, self.processor, prompts, batch_size=self.batch_size, quiet=self.rank != 0)

    def _prompt(self, request: Any, messages: Any) -> Prompt:
        """Return a prompt of `messages(sound=...)`, which are made when their turn comes."""
        decoding = read_decoding(self._arguments(request), max_new_tokens=self.max_new_tokens)
        build = partial(messages, sound=self._sound(request))
        return Prompt(build, len(request.args[0]), _where(request), _task(request), decoding)

    def _choice(self, request: Any) -> Choice:
        context, answer, *rest = request.args
        doc_to_visual = rest[0] if rest else None
        answer = answer(self._doc(request)) if callable(answer) else answer

        def build() -> list[Message]:
            media = doc_to_visual(self._doc(request)) if doc_to_visual else None
            return user_turn(media, context, sound=self._sound(request))

        return Choice(build, len(context) + len(answer), _where(request), _task(request), answer.lstrip())

    def _arguments(self, request: Any) -> dict[str, Any]:
        """Return the generation arguments of a request (context, doc_to_messages, arguments, doc_id, task, split)."""
        return dict(request.args[2])

    def _first_prompt(self, request: Any) -> Prompt:
        return self._prompt(request, partial(self._first_messages, request))

    def _first_messages(self, request: Any, *, sound: SoundKey) -> list[Message]:
        """Messages of the task; where lmms-eval cannot map the media that its task gives, those media and its text."""
        doc_to_messages, doc = request.args[1], self._doc(request)
        try:
            messages = doc_to_messages(doc)
        except TypeError as error:
            if not str(error).startswith("Unsupported visual type"):
                raise
            task = doc_to_messages.__self__
            return user_turn(task.doc_to_visual(doc), task.doc_to_text(doc), sound=sound)
        return to_messages(messages, sound=sound)

    def _next_round(self, request: Any, number: int, outputs: list[str], notes: Any) -> tuple[Any, bool, Any, Any]:
        """Ask the task what follows a round: maker of its messages, whether it ends, its result, notes to hand
        back.
        """
        payload = request.args[1](
            self._doc(request), round_idx=number, previous_output=outputs, previous_round_info=notes
        )
        if not isinstance(payload, tuple):  # a task of its own messages, which knows no rounds
            return None, True, None, None
        messages, is_end, result, notes = payload
        return partial(to_messages, messages), bool(is_end), result, notes

    def _doc(self, request: Any) -> Any:
        *_, doc_id, task, split = request.args
        return self.task_dict[task][split][doc_id]

    def _sound(self, request: Any) -> SoundKey:
        return sound_key(
            _task(request), self.processor.modalities, sound=self.sound, metadata=getattr(request, "metadata", None)
        )


def _task(request: Any) -> str:
    return str(request.task_name)


def _where(request: Any) -> str:
    return f"task {request.task_name}, doc {request.doc_id}"


__all__ = ["UniMoEChat"]
