"""The 128 instruments of General MIDI, played from a sound font; each note is a sound."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .packages import MissingPackage, folder_of
from .views import SAMPLING_RATE

_HELD, _LENGTH = 1.0, 1.4  # s; how long a key is down, and how long one listens
_VELOCITY = 100
_SILENT = 1e-3


def play_notes(packages: Path, keys: list[int]) -> Iterator[tuple[str, int, Tensor]]:
    """Yield each instrument's name, key and samples at 16 kHz, (N,); silent notes are left out.

    Args:
        packages: Folder of unpacked packages.
        keys: MIDI keys; 60 is the middle C.

    Raises:
        MissingPackage: If the sound font or the synthesizer is not there.
    """
    try:
        from tinysoundfont import Synth
    except ImportError as error:
        raise MissingPackage(f"{error}. The synthesizer is not installed. Run: pip install tinysoundfont") from None
    font = folder_of(packages, "sounds/sf2", "timgm6mb-soundfont") / "TimGM6mb.sf2"
    synth = Synth(samplerate=SAMPLING_RATE)
    number = synth.sfload(str(font))
    for program in range(128):
        synth.program_select(0, number, 0, program)
        for key in keys:
            synth.sounds_off()
            synth.generate(SAMPLING_RATE // 10)  # in which the note before fades
            synth.noteon(0, key, _VELOCITY)
            held = read_samples(synth, round(_HELD * SAMPLING_RATE))
            synth.noteoff(0, key)
            wave = torch.cat([held, read_samples(synth, round((_LENGTH - _HELD) * SAMPLING_RATE))])
            if wave.abs().max() > _SILENT:
                yield synth.sfpreset_name(number, 0, program).strip().lower(), key, wave.clamp(-1, 1)


def read_samples(synth: object, count: int) -> Tensor:
    """Return the next samples of a synthesizer, both channels as one, (count,)."""
    stereo = torch.frombuffer(bytearray(synth.generate(count)), dtype=torch.float32)  # type: ignore[attr-defined]
    return stereo.view(-1, 2).mean(dim=1)
