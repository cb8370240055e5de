"""Which keys a row, a turn and an item may have besides what is read, and what becomes of each: the one table.

`messages` reads by it at every door, `docs/data.md` shows it. A key that holds nothing (None, NaN, "", [], {}) passes
everywhere. Of a turn and an item, a key that stands in no table is refused; of a row, which may have any number of
columns, it passes unless it is nearly one that is read.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from ..modality import MEDIA, Modality

KINDS = tuple(modality.key for modality in MEDIA)
ROLES = ("system", "user", "assistant")
ROLE_NAMES = {**{role: role for role in ROLES}, "human": "user", "gpt": "assistant", "developer": "system"}
"""The role of each name that a turn may give."""
TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation", "ipython")

DIALOGUES = ("messages", "conversations")
SYSTEM_KEYS = ("system", "system_prompt", "system_message")
SYSTEM_LIKE = (
    *("sys", "sys_prompt", "sys_msg", "sys_message", "system_msg", "system_messages", "system_prompts"),
    *("system_instruction", "system_instructions", "system_text", "system_content"),
)
"""Keys that probably are a system message, and are not read."""
VOICE = ("voice", "voices")
MEDIA_COLUMNS = {
    **{name: kind for kind in KINDS for name in (kind, f"{kind}s")},
    **dict.fromkeys(("speeches", *VOICE), Modality.SPEECH.key),
}
"""The kind of media of each column that rows may have."""

_IGNORED = "`columns: {KEY: ignore}` says that it is meant to be left out."
_TOOLS = "What tools are and say is not trained or rendered here: write it into a turn, or take the row out."
_TOOLS_OF_ROWS = f"{_TOOLS} Of a training row, {_IGNORED}"
IGNORE = f"Take it out; of a training row, {_IGNORED}"
_ANSWERS = "One answer is learned from a row: write that one into the dialogue. " + IGNORE
_LOSS = "Loss is on every answer alike; the `weight` of a source counts for all its rows. " + IGNORE
_SYSTEM = "Rename it to `system` if it is the system message; of a training row, `columns: {KEY: system}`. " + IGNORE
_CALL = "It is an argument of the processor's call: pass it there, or set the chat template of the model."

TOOL_KEYS = ("tools", "tool", "functions", "function", "tool_calls", "function_call")
USUAL_WITHOUT_TOOLS: dict[str, tuple[Any, ...]] = {
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (False, True),
    "response_format": ("text", {"type": "text"}),
}
"""Options of a call that say what happens anyway where there are no tools."""
JUDGEMENTS = ("label", "is_desirable", "desirable", "is_chosen", "is_preferred")
JUDGED = ("true", "false", "good", "bad", "desirable", "undesirable", "chosen", "rejected", "0", "1")
"""What such a key says where it judges the answer, besides true, false, 1 and 0; any other is a note."""
_REFUSED_ANSWERS = (
    "answer",
    "completion",
    "conversation",
    "conversations",
    "message",
    "messages",
    "output",
    "response",
)

REFUSED_IN_ROWS = {
    **dict.fromkeys((*TOOL_KEYS, *USUAL_WITHOUT_TOOLS), _TOOLS_OF_ROWS),
    **dict.fromkeys(SYSTEM_LIKE, _SYSTEM),
    "history": "Write its turns into the dialogue, in front of the others.",
    **dict.fromkeys(("documents", "document", "knowledge"), "Write their text into a turn of the user."),
    "objects": "Write what they say into the texts: tags such as <bbox> are not read.",
    **dict.fromkeys(
        ("chosen", "rejected", "preference", "preferred", "dispreferred", "kto_tag", "kto_label"), _ANSWERS
    ),
    **dict.fromkeys(
        (f"{side}_{name}" for side in ("chosen", "rejected", "negative") for name in _REFUSED_ANSWERS), _ANSWERS
    ),
    **dict.fromkeys((*JUDGEMENTS, "negative", "negatives", "rejected_images", "chosen_images"), _ANSWERS),
    **dict.fromkeys(("loss", "loss_mask", "loss_weight", "loss_scale", "weight", "weights", "sample_weight"), _LOSS),
    **dict.fromkeys(("train", "trainable", "train_on_prompt", "train_on_inputs", "labels", "label_mask"), _LOSS),
    **dict.fromkeys(("mask", "masks", "loss_masks", "train_mask", "answer_mask", "completion_mask"), _LOSS),
    **dict.fromkeys(("prompt_mask", "assistant_mask", "assistant_masks"), _LOSS),
    **dict.fromkeys(("chat_template", "chat_template_kwargs", "enable_thinking", "add_generation_prompt"), _CALL),
}
"""Keys beside the dialogue whose meaning would be lost, and the cure."""
CONTENT_OF_ROWS = (
    *("prompt", "instruction", "instructions", "input", "inputs", "question", "query", "context", "contexts"),
    *("output", "response", "completion", "answer", "text"),
)
"""Keys that sound like a part of the dialogue: their text must stand in it."""
THOUGHTS_OF_ROWS = (
    *("reasoning", "reasoning_content", "rationale", "rationales", "thinking", "thinking_content", "thought"),
    *("thoughts", "cot", "chain_of_thought"),
)
"""Keys of what is thought before an answer."""
WEIGHTS = ("loss", "weight", "train", "trainable", "learn", "loss_weight", "loss_scale")
"""Keys that say what is learned: true or 1 of an answer, false or 0 of other turns, is what happens anyway."""

_MEDIA_IN_TURN = 'Write it into the content, such as {"type": "image", "path": "a.png"}, or take it out.'
_THOUGHTS = "Thoughts are not rendered: write them into the content, or take them out."
REFUSED_IN_TURNS = {
    **dict.fromkeys(WEIGHTS, "Loss is on every answer and on nothing else: take the key, or the row, out."),
    **dict.fromkeys(("tool_calls", "tool_call_id", "function_call", "tools"), _TOOLS),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking", "thoughts"), _THOUGHTS),
    **dict.fromkeys(MEDIA_COLUMNS, _MEDIA_IN_TURN),
    "name": "Names of speakers are not rendered: write it into the content, or take it out.",
    "refusal": "Write it as the content, or take it out.",
    "prefix": "Pass continue_final_message=True to the call instead.",
    "partial": "Pass continue_final_message=True to the call instead.",
}
NOTES_OF_TURNS = (
    *(
        "id",
        "message_id",
        "uuid",
        "index",
        "turn",
        "timestamp",
        "time",
        "date",
        "created",
        "created_at",
        "create_time",
    ),
    *("model", "language", "lang", "source", "meta", "metadata", "score", "rating", "hash", "url", "usage"),
    *("tokens", "token_count", "num_tokens", "finish_reason", "stop_reason", "status", "cache_control"),
)
"""Keys of a turn that say something about it, and nothing to the model."""

TextOrMedium = Literal["text", "image", "video", "audio", "speech", "sound"]
ITEM_TYPES: dict[str, TextOrMedium] = {
    "text": "text",
    "image": "image",
    "video": "video",
    "audio": "audio",
    "speech": "speech",
    **dict.fromkeys(("input_text", "output_text"), "text"),
    **dict.fromkeys(("image_url", "input_image"), "image"),
    "video_url": "video",
    **dict.fromkeys(("audio_url", "input_audio"), "sound"),
}
"""What an item of each type is. `sound`: speech, or audio if the processor has no encoder of speech."""
REFUSED_TYPES = {
    **dict.fromkeys(("tool_use", "tool_result", "tool_call", "function_call", "server_tool_use"), _TOOLS),
    **dict.fromkeys(("thinking", "redacted_thinking", "reasoning"), _THOUGHTS),
    "refusal": 'Write it as {"type": "text", "text": ...}.',
    **dict.fromkeys(("file", "input_file", "document", "search_result"), "Write its text, or its pages as images."),
}
MEDIUM_KEYS = ("path", "url", "base64", "data")
"""Keys of a medium, besides its kind's own; those of clients follow."""
CLIENT_KEYS = {
    "image": ("image_url", "source"),
    "video": ("video_url", "source"),
    **dict.fromkeys(("audio", "speech"), ("audio_url", "input_audio", "source")),
}
_SIZE = "Resize the picture beforehand, or set `image_max_tiles` in the call or the media_layout."
_FRAMES = "Set video_frame_rate, video_min_frames or video_max_frames in the call or the media_layout."
_PART = "Only a part of a film is asked about, or of a sound: cut it out beforehand, and give that file."
PART_KEYS = (
    "start",
    "end",
    "start_time",
    "end_time",
    "video_start",
    "video_end",
    "audio_start",
    "audio_end",
    "offset",
)
REFUSED_IN_ITEMS = {
    **dict.fromkeys(("detail", "min_pixels", "max_pixels", "resized_height", "resized_width", "max_tiles"), _SIZE),
    **dict.fromkeys(("fps", "num_frames", "nframes", "max_frames", "min_frames", "total_pixels"), _FRAMES),
    **dict.fromkeys(("video_fps", "frame_rate", "do_sample_frames"), _FRAMES),
    **dict.fromkeys(
        ("sampling_rate", "sample_rate"), 'Write both as the medium: {"array": samples, "sampling_rate": rate}.'
    ),
    **dict.fromkeys(PART_KEYS, _PART),
    "file_id": "Nothing is fetched here: save the file, and write its path.",
}
NOTES_OF_ITEMS = (
    *("id", "uuid", "index", "cache_control", "mime_type", "media_type", "format", "filename", "file_name"),
    *("width", "height", "duration"),
)
"""Keys of an item that say something about its file, which the file says too."""


class Entry(NamedTuple):
    """Keys of one kind, where they stand, and what becomes of them."""

    level: str
    keys: tuple[str, ...]
    outcome: str


def entries() -> Iterator[Entry]:
    """All keys that have a meaning, and what becomes of each."""
    yield Entry("row", DIALOGUES, "read: the dialogue; turns under either name may be spelled either way")
    yield Entry("row", tuple(MEDIA_COLUMNS), "read in training rows: media for the tags; elsewhere refused")
    yield Entry("row", SYSTEM_KEYS, "read: the first system message; refused if the dialogue has one")
    yield Entry("row", ("id",), "read: the row's name")
    yield from _refused("row", REFUSED_IN_ROWS)
    yield Entry("row", JUDGEMENTS, f"passes unless it judges: true, false, a number 0 or 1, {', '.join(JUDGED)}")
    usual = ", ".join(f"{name} {' or '.join(map(str, values))}" for name, values in USUAL_WITHOUT_TOOLS.items())
    yield Entry("row", tuple(USUAL_WITHOUT_TOOLS), f"passes without tools if it is usual: {usual}")
    yield Entry("row", CONTENT_OF_ROWS, "passes if a turn says the same text, otherwise refused. " + IGNORE)
    yield Entry(
        "row", THOUGHTS_OF_ROWS, "passes if a turn says the same text, or it is false, otherwise refused. " + IGNORE
    )
    yield Entry("row", ("any other",), "passes, unless it is one slip away from a key that is read, or names media")
    yield Entry("turn", ("role", "from"), f"read: {', '.join(ROLE_NAMES)}")
    yield Entry("turn", ("content", "value"), "read: a text, or a list of items")
    yield Entry("turn", WEIGHTS, "passes if it says what happens anyway (1 of an answer, 0 of other turns)")
    yield from _refused("turn", REFUSED_IN_TURNS)
    yield Entry("turn", NOTES_OF_TURNS, "passes")
    yield Entry("turn", ("any other",), "refused, with the nearest key that is known")
    yield Entry("item", ("type",), "read: " + ", ".join(ITEM_TYPES))
    yield from _refused("item", REFUSED_TYPES, "type ")
    yield Entry("item", ("text",), "read of a text; with a medium in the same item, refused")
    yield Entry("item", ("the kind's own", *MEDIUM_KEYS), "read: the medium, of which an item has one")
    clients = tuple(dict.fromkeys(key for keys in CLIENT_KEYS.values() for key in keys))
    yield Entry("item", clients, "read as OpenAI's and Anthropic's clients write them")
    yield from _refused("item", REFUSED_IN_ITEMS)
    yield Entry("item", NOTES_OF_ITEMS, 'passes, and so does `detail: "auto"`')
    yield Entry("item", ("index",), "read of an item without a medium beside a column of media: its number there")
    yield Entry("item", ("any other",), "refused, with the nearest key that is known")


def _refused(level: str, table: Mapping[str, str], prefix: str = "") -> Iterator[Entry]:
    for cure in dict.fromkeys(table.values()):
        keys = tuple(prefix + key for key, other in table.items() if other == cure)
        yield Entry(level, keys, f"refused. {cure}")


def key_table() -> str:
    """Return the table of keys as Markdown."""
    lines = ["| of a | keys | what becomes of them |", "|---|---|---|"]
    lines += [f"| {e.level} | {', '.join(f'`{key}`' for key in e.keys)} | {e.outcome} |" for e in entries()]
    return "\n".join(line.replace("<bbox>", "`<bbox>`") for line in lines)


__all__ = [
    "CLIENT_KEYS",
    "CONTENT_OF_ROWS",
    "DIALOGUES",
    "IGNORE",
    "ITEM_TYPES",
    "JUDGED",
    "JUDGEMENTS",
    "KINDS",
    "MEDIA_COLUMNS",
    "MEDIUM_KEYS",
    "NOTES_OF_ITEMS",
    "NOTES_OF_TURNS",
    "PART_KEYS",
    "REFUSED_IN_ITEMS",
    "REFUSED_IN_ROWS",
    "REFUSED_IN_TURNS",
    "REFUSED_TYPES",
    "ROLES",
    "ROLE_NAMES",
    "SYSTEM_KEYS",
    "THOUGHTS_OF_ROWS",
    "TOOL_KEYS",
    "TOOL_ROLES",
    "USUAL_WITHOUT_TOOLS",
    "VOICE",
    "WEIGHTS",
    "key_table",
]
