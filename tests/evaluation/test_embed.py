"""Media in a page: what a browser gets is what the row has."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from evaluation.report.embed import embed


@pytest.mark.parametrize("seconds", [0.15, 1.0, 31.0])
def test_sounds_are_mp3_which_every_browser_plays_however_short(seconds: float, tmp_path: Path) -> None:
    """Chromium did not play a FLAC of a fifth of a second: its demuxer failed to seek."""
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.5 * np.sin(np.arange(int(seconds * 16000)) / 6), 16000)
    (shown,) = embed({"type": "audio", "path": str(path)})
    kind, content = shown.uri.split(";base64,")
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert (shown.kind, kind, rate) == ("sound", "data:audio/mpeg", 16000)
    assert len(heard) == pytest.approx(min(seconds, 30) * rate, abs=1200) and np.abs(heard).max() > 0.3
    assert shown.note == ("the first 30 of 31 s" if seconds > 30 else "")


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    (shown,) = embed({"type": "image", "path": str(tmp_path / "a.png")})
    assert shown.kind == "missing" and "a.png" in shown.note
