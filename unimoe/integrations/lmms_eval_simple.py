"""unimoe as a simple model of lmms-eval (`--force_simple`): a text and a list of media; the way to likelihoods."""

from functools import partial
from typing import Any

from .lmms_eval_chat import UniMoEChat
from .lmms_eval_media import Message, SoundKey, user_turn


class UniMoESimple(UniMoEChat):
    """A unimoe checkpoint for tasks in lmms-eval's older form; arguments as for `UniMoEChat`.

    Media stand before the text, or at its `<image>` tags if there are as many of both.
    """

    is_simple = True

    def _arguments(self, request: Any) -> dict[str, Any]:
        """Return generation arguments of a request (context, arguments, doc_to_visual, ..., doc_id, task, split)."""
        return dict(request.args[1])

    def _first_messages(self, request: Any, *, sound: SoundKey) -> list[Message]:
        context, _, doc_to_visual, *_ = request.args
        return user_turn(doc_to_visual(self._doc(request)), context, sound=sound)

    def _next_round(self, request: Any, number: int, outputs: list[str], notes: Any) -> tuple[Any, bool, Any, Any]:
        doc_to_text = request.args[3]
        media, text, is_end, result, notes = doc_to_text(
            self._doc(request), round_idx=number, previous_output=outputs, previous_round_info=notes
        )
        return partial(user_turn, media, text), bool(is_end), result, notes


__all__ = ["UniMoESimple"]
