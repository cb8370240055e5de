"""Files of sound: whole or refused, decoded by soundfile, and by PyAV what that does not know."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from .containers import Layout
from .files import (
    check_complete,
    inspect_file,
    open_container,
    open_file,
    placed,
    read_bytes,
    states_duration,
    unreadable,
)
from .limits import Limits

_PACKETS, _PACKETS_A_SECOND = 10_000, 2_000
"""Packets of a sound, and in each second, beyond which decoding takes much longer than what is heard."""
_COUNTED = frozenset(["CAF", "W64", "AIFF"])
"""Formats of soundfile whose header counts the samples, and whose structure `inspect` checks without counting."""
_FORMATS = frozenset(["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "NIST"])
"""Formats of soundfile that are read: those whose structure is checked."""
_UNKNOWN = 2**40
"""Samples from which on a header's number stands for "not known"."""


@dataclass
class Track:
    """The sound of a file, (samples,), channels averaged; and how much later than the first frame of a film it begins.

    Args:
        samples: float32.
        rate: Hz.
        late: s.
    """

    samples: np.ndarray
    rate: int
    late: float = 0.0


def read_sound_file(medium: Any, *, where: str, limits: Limits) -> Track:
    """Decode the sound of a file.

    Args:
        medium: What `find_medium` takes.
        where: Name of the medium in error messages.
        limits: Of its length, rate and channels.

    Raises:
        MediaError: If it is missing, not whole or no sound.
        LimitError: If it is too large.
    """
    file = open_file(medium, where, limits)
    layout = _layout(file, medium, where, limits)
    if not layout.parts:
        return _read_part(file, layout, medium, where, limits)
    data = read_bytes(file)
    parts = [io.BytesIO(layout.prefix + data[begin:end]) for begin, end in layout.parts]
    tracks = [_read_part(part, layout, medium, where, limits) for part in parts]
    if len(rates := {track.rate for track in tracks}) > 1:
        raise unreadable(medium, where, "sound", f"sounds of {sorted(rates)} Hz follow each other in it")
    samples = np.concatenate([track.samples for track in tracks])
    check_length(len(samples), tracks[0].rate, 1, placed(where, medium), limits)
    return Track(samples, tracks[0].rate)


def counted_length(medium: Any, *, where: str, limits: Limits) -> tuple[int, int]:
    """Return the samples and rate of a file whose structure counts them; 0 samples where only decoding tells.

    Args:
        medium: As for `read_sound_file`.
        where: File and row, for errors.
        limits: Of its size and rate.

    Raises:
        MediaError, LimitError: As `read_sound_file`, as far as the structure shows.
    """
    import soundfile

    file = open_file(medium, where, limits)
    layout = _layout(file, medium, where, limits)
    if layout.exact or layout.parts:
        return (layout.samples or 0) if layout.exact else 0, layout.rate
    try:
        with soundfile.SoundFile(file) as sound:
            if sound.format in _COUNTED:
                check_length(sound.frames, sound.samplerate, sound.channels, placed(where, medium), limits)
                return sound.frames, sound.samplerate
    except (soundfile.SoundFileError, TypeError):  # `read_sound_file` says what is wrong, or decodes it otherwise
        pass
    return 0, 0


def decode_track(file: str | io.BytesIO, medium: Any, *, where: str, kind: str, limits: Limits) -> Track | None:
    """Return the sound of a file, decoded with PyAV, channels averaged; None if there is no sound in it.

    Args:
        file: Path, or the bytes in memory.
        medium: What was passed, for the errors.
        where: Name of the medium in error messages.
        kind: "video" or "sound".
        limits: Of its length, rate and channels.

    Raises:
        MediaError, LimitError: As `read_sound_file`.
        ImportError: If PyAV is not installed.
    """
    with open_container(file, medium, where=where, kind=kind) as container:
        _check_packets(container, medium, where, kind, limits)
    with open_container(file, medium, where=where, kind=kind) as container:
        from av import AudioResampler

        stream, film = container.streams.best("audio"), container.streams.best("video")
        if stream is None:
            return None
        to_floats, pieces, start, rate, count = AudioResampler(format="fltp"), [], None, stream.rate, 0
        for frame in chain(container.decode(stream), [None]):  # None: give what is left
            if frame is not None and start is None:
                start, rate = frame.time, frame.sample_rate
            if frame is not None and frame.sample_rate != rate:
                raise unreadable(medium, where, kind, f"its rate changes from {rate} to {frame.sample_rate} Hz")
            pieces += [piece.to_ndarray().mean(axis=0) for piece in to_floats.resample(frame)]
            count += 0 if frame is None else frame.samples
            check_length(count, rate or 1, stream.codec_context.channels or 1, placed(where, medium), limits)
        samples = np.concatenate([np.zeros(0, dtype=np.float32), *pieces])
        if stream.duration and states_duration(container):
            stated = float(stream.duration * stream.time_base)
            check_complete(len(samples) / rate, stated, medium, where=where, kind=kind)
        begin = start if film is None or film.start_time is None else float(film.start_time * film.time_base)
        return Track(samples, rate, (start or 0.0) - (begin or 0.0))


def _check_packets(container: Any, medium: Any, where: str, kind: str, limits: Limits) -> None:
    """Refuse a sound that is too long, or that nothing decodes, before it is decoded."""
    stream = container.streams.best("audio")
    if stream is None:
        return
    if stream.codec_context is None:
        raise unreadable(medium, where, kind, "no decoder is known for its sound")
    check_format(stream.rate or 1, stream.codec_context.channels or 1, placed(where, medium), limits)
    seconds = 0.0
    for number, packet in enumerate(container.demux(stream)):
        if number > _PACKETS and number > _PACKETS_A_SECOND * seconds:
            raise unreadable(medium, where, kind, f"{number} packets or more hold {seconds:.1f} s of its sound")
        seconds += float((packet.duration or 0) * packet.time_base)
        limits.check("sound_seconds", seconds, f"the sound has {seconds:.0f} s or more", where=placed(where, medium))


def _layout(file: str | io.BytesIO, medium: Any, where: str, limits: Limits) -> Layout:
    layout = inspect_file(file, medium, where=where, kind="sound", most=limits.sound_samples)
    if layout.samples is not None:
        check_format(layout.rate, layout.channels, placed(where, medium), limits)
        check_length(layout.samples, layout.rate, layout.channels, placed(where, medium), limits)
    return layout


def _read_part(file: str | io.BytesIO, layout: Layout, medium: Any, where: str, limits: Limits) -> Track:
    import soundfile

    try:
        sound = soundfile.SoundFile(file)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a name that ends in .raw
        track = _read_otherwise(file, medium, where, limits, error)
        _check_count(layout, len(track.samples), medium, where)
        return track
    with sound:
        if sound.format not in _FORMATS:
            known = ", ".join(sorted(_FORMATS))
            raise unreadable(medium, where, "sound", f"{sound.format_info} is not one of {known}")
        rate, stated = sound.samplerate, sound.frames
        counted = stated if layout.samples is None else layout.samples
        check_format(rate, sound.channels, placed(where, medium), limits)
        check_length(counted if counted < _UNKNOWN else 0, rate, sound.channels, placed(where, medium), limits)
        try:
            samples = np.concatenate([np.zeros(0, dtype=np.float32), *_blocks(sound, placed(where, medium), limits)])
        except soundfile.SoundFileError as error:
            raise unreadable(medium, where, "sound", error) from error
    _check_count(layout, len(samples), medium, where)
    if stated < _UNKNOWN:
        check_complete(len(samples) / rate, stated / rate, medium, where=where, kind="sound")
    return Track(samples, rate)


def _check_count(layout: Layout, decoded: int, medium: Any, where: str) -> None:
    if layout.exact and decoded != layout.samples:
        raise unreadable(medium, where, "sound", f"of {layout.samples} samples, {decoded} can be decoded")


def _read_otherwise(file: str | io.BytesIO, medium: Any, where: str, limits: Limits, unknown: Exception) -> Track:
    """Return the sound of a file that soundfile does not read."""
    try:
        track = decode_track(file, medium, where=where, kind="sound", limits=limits)
    except ImportError as error:
        reason = f"soundfile cannot read it: {unknown}; formats that it does not know need `pip install unimoe[audio]`"
        raise unreadable(medium, where, "sound", reason) from error
    if track is None:
        raise unreadable(medium, where, "sound", "it holds no sound")
    return track


def _blocks(sound: Any, where: str, limits: Limits) -> Iterator[np.ndarray]:
    """Return the average of all channels, ten seconds at a time: only that is kept whole."""
    count = 0
    while len(block := sound.read(10 * sound.samplerate, dtype="float32", always_2d=True)):
        count += len(block)
        check_length(count, sound.samplerate, sound.channels, where, limits)
        yield block.mean(axis=1)


def check_format(rate: int, channels: int, where: str, limits: Limits) -> None:
    """Refuse a `rate` (Hz) or a number of `channels` beyond the `limits`; `where` names the sound."""
    limits.check("sampling_rate", rate, f"the sound has {rate} samples per second", where=where)
    limits.check("channels", channels, f"the sound has {channels} channels", where=where)


def check_length(samples: int, rate: int, channels: int, where: str, limits: Limits) -> None:
    """Refuse a sound beyond the `limits`, by the `samples` of each of its `channels` and its `rate` (Hz).

    `where` names the sound.
    """
    seconds = samples / max(rate, 1)
    limits.check("sound_seconds", seconds, f"the sound has {seconds:.0f} s or more", where=where)
    total = samples * channels
    limits.check("sound_samples", total, f"the sound has {total} samples or more in all channels", where=where)


__all__ = ["Track", "check_format", "check_length", "counted_length", "decode_track", "read_sound_file"]
