"""How well sounds fill the windows that encoders take: a window that is mostly padding costs as much as a full one.

Lengths come from the headers of the media; nothing is decoded.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from unimoe import Modality
from unimoe.media import sound_length, window_samples
from unimoe.processing.lengths import TokenCounter

from ..mixture.dataset import medium_of
from ..schema import Row

MEASURED = 200
"""Sounds of each modality that are measured, the first ones of the rows that are looked at."""
PADDED = 0.5
"""Share of the windows' length that is padding, above which it is said."""
JUST_ABOVE = 0.1
"""Share of a window: a typical sound that is longer than whole windows by no more makes one window too many."""
SOUNDS = (Modality.AUDIO, Modality.SPEECH)


@dataclass
class WindowFill:
    """Measures the sounds of rows against the windows of a processor.

    Args:
        counter: Of the processor.
    """

    counter: TokenCounter
    lengths: dict[Modality, list[int]] = field(default_factory=dict)
    unread: int = 0

    def add(self, row: Row) -> None:
        """Measure the sounds of one row, as long as fewer than `MEASURED` of their modality are.

        What cannot be read is counted here, and is an error where the row is trained on.
        """
        for modality in SOUNDS:
            known = self.lengths.setdefault(modality, [])
            if modality not in self.counter.units.extractors:
                continue
            for item in (item for message in row.messages for item in message["content"]):
                if item["type"] == modality.key and len(known) < MEASURED:
                    self._measure(modality, item, row.where)

    def add_all(self, rows: Iterable[Row]) -> "WindowFill":
        """Measure the sounds of rows, until there are enough."""
        for row in rows:
            self.add(row)
            if all(len(self.lengths[modality]) >= MEASURED for modality in SOUNDS):
                break
        return self

    def warnings(self) -> list[str]:
        """Say for each modality what is wrong with how its windows are filled, and what helps."""
        found = (self._judge(modality, lengths) for modality, lengths in self.lengths.items() if lengths)
        unread = f" {self.unread:,} more could not be read." if self.unread else ""
        return [text + unread for text in found if text]

    def _measure(self, modality: Modality, item: dict[str, Any], where: str) -> None:
        rate = self.counter.units.extractors[modality].sampling_rate
        try:
            self.lengths[modality].append(sound_length(medium_of(item), sampling_rate=rate, where=where))
        except (ImportError, OSError, ValueError):
            self.unread += 1

    def _judge(self, modality: Modality, lengths: list[int]) -> str | None:
        extractor = self.counter.units.extractors[modality]
        window, rate = window_samples(extractor), extractor.sampling_rate
        windows = sum(-(-length // window) for length in lengths)
        padding = 1 - sum(lengths) / (windows * window) if windows else 0.0
        median = int(statistics.median(lengths))
        whole, over = divmod(median, window)
        is_just_above = whole > 0 and 0 < over <= JUST_ABOVE * window
        if padding <= PADDED and not is_just_above:
            return None
        text = (
            f"{modality.key}: {padding:.0%} of the windows is padding (windows of {window / rate:.2f} s; half of "
            f"{len(lengths):,} measured are no longer than {median / rate:.2f} s). "
        )
        if is_just_above:
            return text + (
                f"The typical one is {over / rate:.2f} s longer than {whole} window(s), and takes one more: cut it to "
                f"{whole * window / rate:.2f} s, or take an encoder with windows of {median / whole / rate:.2f} s "
                "(tower_config.max_length of AST, max_source_positions of Whisper)."
            )
        return text + (
            "Take an encoder with shorter windows (tower_config.max_length of AST, max_source_positions of Whisper), "
            "or put several sounds into one row's medium."
        )


__all__ = ["WindowFill"]
