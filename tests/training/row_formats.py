"""One dialogue in each of the five formats, so that a test can plant the same fault in all of them.

A dialogue is turns (role, text with tags) and media by kind; a format says how it is written, and under which key each
part of it then stands.
"""

import json
import re
from pathlib import Path
from typing import Any

Turns = list[tuple[str, str]]
QUESTION: Turns = [("user", "what is this?"), ("assistant", "a thing")]
SEEN: Turns = [("user", "<image>\nwhat is this?"), ("assistant", "a thing")]
HEARD: Turns = [("user", "<audio>\nwhat is this?"), ("assistant", "a sound")]
SHOWN: Turns = [("user", "<video>\nwhat is this?"), ("assistant", "a clip")]
_TAG = re.compile(r"<(image|video|audio)>")


class Messages:
    """Typed items within messages."""

    name = "messages"
    suffix = ".jsonl"
    dialogue = "messages"
    role, text = "role", "content"
    roles = {"user": "user", "assistant": "assistant", "system": "system"}

    def row(self, name: Any, turns: Turns, **media: list[Any]) -> dict[str, Any]:
        waiting = {kind: list(values) for kind, values in media.items()}
        messages = [{"role": role, "content": self._content(text, waiting)} for role, text in turns]
        return {"id": name, "messages": messages}

    def _content(self, text: str, waiting: dict[str, list[Any]]) -> Any:
        if not _TAG.search(text):
            return text
        items: list[dict[str, Any]] = []
        for number, piece in enumerate(_TAG.split(text)):
            if number % 2:
                items.append({"type": piece, "path": waiting[piece].pop(0)})
            elif piece.strip():
                items.append({"type": "text", "text": piece.strip()})
        return items

    def medium(self, kind: str, number: int = 0) -> str:
        """Key of a medium of the first turn."""
        return f"messages[0].content[{number}].path"

    def write(self, path: Path, rows: list[Any]) -> Path:
        """Write rows, of which some may be bytes that are no JSON; return the data file."""
        file = path.with_suffix(self.suffix)
        file.write_bytes(b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows))
        return file

    def where(self, file: Path, number: int) -> str:
        return f"{file}:{number + 1}"


class Columns(Messages):
    """Messages with tags, media in columns beside them."""

    name = "columns"

    def row(self, name: Any, turns: Turns, **media: list[Any]) -> dict[str, Any]:
        messages = [{"role": role, "content": text} for role, text in turns]
        return {"id": name, "messages": messages, **{f"{kind}s": values for kind, values in media.items()}}

    def medium(self, kind: str, number: int = 0) -> str:
        return f"{kind}s[{number}]"


class Llava(Messages):
    """LLaVA's and ShareGPT's conversations."""

    name = "llava"
    dialogue = "conversations"
    role, text = "from", "value"
    roles = {"user": "human", "assistant": "gpt", "system": "system"}

    def row(self, name: Any, turns: Turns, **media: list[Any]) -> dict[str, Any]:
        conversation = [{"from": self.roles.get(role, role), "value": text} for role, text in turns]
        return {"id": name, "conversations": conversation, **{kind: self._column(m) for kind, m in media.items()}}

    def _column(self, media: list[Any]) -> Any:
        return media if len(media) > 1 else media[0]

    def medium(self, kind: str, number: int = 0) -> str:
        return f"{kind}[{number}]" if number else kind


class UniMoE(Llava):
    """Uni-MoE's: as LLaVA's; what is spoken is listed under `voice`, and stands before the text if no tag says so."""

    name = "uni_moe"

    def row(self, name: Any, turns: Turns, **media: list[Any]) -> dict[str, Any]:
        sounds = media.pop("audio", None) or ["good.wav"]
        has_tag = any("<audio>" in text for _, text in turns)
        asked = next((number for number, (role, _) in enumerate(turns) if role == "user"), None)
        if not has_tag and asked is not None:
            turns = [(role, f"<audio>{text}" if n == asked else text) for n, (role, text) in enumerate(turns)]
        return {**super().row(name, turns, **media), "voice": sounds}

    def medium(self, kind: str, number: int = 0) -> str:
        return f"voice[{number}]" if kind == "audio" else super().medium(kind, number)


class Parquet(Columns):
    """A table of `datasets`: messages with tags, and media columns with the bytes of files."""

    name = "table"
    suffix = ".parquet"
    kinds = ("image", "audio")

    def write(self, path: Path, rows: list[Any]) -> Path:
        from datasets import Audio, Dataset, Features, Image, Json, List, Value
        from pyarrow.parquet import write_table

        media = {"bytes": Value("binary"), "path": Value("string")}
        features = {
            "id": Json(),
            "messages": Json(),
            "conversations": Json(),
            "images": List(Image()),
            "audios": List(media),
            "videos": List(media),
            "picture_file": Value("string"),
        }
        columns = {name: [self._value(name, row.get(name), path.parent) for row in rows] for name in features}
        table = Dataset.from_dict(columns, features=Features(features))
        for name in ("audios",):  # to encode sounds `datasets` wants torchcodec; to mark what is encoded it does not
            table = table.cast_column(name, List(Audio(decode=False)))
        file = path.with_suffix(self.suffix)
        write_table(table.data.table, file)  # `to_parquet` would look for the files that are missing
        return file

    def _value(self, name: str, value: Any, folder: Path) -> Any:
        if name not in ("images", "audios", "videos") or value is None:
            return value
        return [self._file(medium, folder) for medium in value]

    def _file(self, medium: Any, folder: Path) -> Any:
        if isinstance(medium, str) and (folder / medium).is_file():
            return {"bytes": (folder / medium).read_bytes(), "path": medium}
        return {"bytes": None, "path": medium}

    def where(self, file: Path, number: int) -> str:
        return f"{file}: row {number}"


FORMATS = (Messages(), Columns(), Llava(), UniMoE(), Parquet())
