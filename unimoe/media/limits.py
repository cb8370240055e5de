"""How large what others wrote may be: files, pictures, films, sounds, JSON, YAML and calls.

Each limit has a default, an argument (`limits=Limits(sound_seconds=7200)` of what loads media) and a setting (the
variable UNIMOE_LIMIT_SOUND_SECONDS of the environment, which every door and every worker process reads). What is
refused names the limit and both ways to raise it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from ..errors import ConfigError, LimitError

SETTING = "UNIMOE_LIMIT_"
"""What the names of the variables of the environment begin with."""


@dataclass(frozen=True)
class Limits:
    """The largest that is read; each a whole number of at least 1.

    Args:
        file_bytes: Of a file or of bytes that hold a medium.
        picture_pixels: Of a picture, and of one frame of a film or an animation.
        film_pixels: Of all frames of a film that are decoded on the way to those that are sampled.
        film_frames: Of a film.
        animation_frames: Of an animated GIF, PNG or WebP, all of which are looked at.
        animation_pixels: Of all frames of an animation together, which count as 8 at the least.
        film_seconds: Of a film.
        sound_seconds: Of a sound, and of the sound track of a film.
        sound_samples: Of all channels of a sound together, at its own rate.
        channels: Of a sound.
        sampling_rate: Of a sound, Hz.
        json_depth: Lists and objects within each other.
        number_digits: Of a number in JSON.
        yaml_keys: Keys, list entries and values of a YAML file together, anchors counted wherever they are used.
        yaml_bytes: Of a YAML file.
        call_options: Options of one call.
        model_layers: Layers, blocks or stages of one part of a model.
        model_entries: Experts, heads, queries, labels or tokens of a unit.
        model_parameters: Of a model, as its configuration describes it.

    Raises:
        ConfigError: If one is no such number; it names it.
    """

    file_bytes: int = 2 * 2**30
    picture_pixels: int = 2**26
    film_pixels: int = 2**35
    film_frames: int = 500_000
    animation_frames: int = 5_000
    animation_pixels: int = 2**28
    film_seconds: int = 6 * 3600
    sound_seconds: int = 1800
    sound_samples: int = 200_000_000
    channels: int = 64
    sampling_rate: int = 768_000
    json_depth: int = 100
    number_digits: int = 400
    yaml_keys: int = 50_000
    yaml_bytes: int = 10_000_000
    call_options: int = 1_000
    model_layers: int = 5_000
    model_entries: int = 100_000
    model_parameters: int = 5 * 10**12

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"limit {field.name}", f"{value!r} is no whole number of at least 1.", "Write one, such as 1000."
                )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Limits":
        """Return the defaults, but for those that `UNIMOE_LIMIT_NAME` sets.

        Raises:
            ConfigError: If such a variable has an unknown name, or holds no number; it names the variable.
        """
        if not (settings := [name for name in environment if name.startswith(SETTING)]):
            return DEFAULTS
        known = {SETTING + field.name.upper(): field.name for field in fields(cls)}
        given = {}
        for variable in settings:
            text = environment[variable]
            if variable not in known:
                raise ConfigError(variable, "there is no such limit.", f"Known: {', '.join(sorted(known))}.")
            if not text.strip().isdecimal():
                raise ConfigError(variable, f"{text!r} is no whole number.", "Write one, such as 1000.")
            given[known[variable]] = int(text)
        return cls(**given)

    def check(self, name: str, value: float, what: str, *, where: str, key: str = "") -> None:
        """Refuse what is larger than a limit.

        Args:
            name: Of the limit.
            value: What was found.
            what: It in words, such as "the picture has 13000 x 13000 pixels".
            where: Name of the medium, or file and row.
            key: Place within the row.

        Raises:
            LimitError: If the value is above the limit.
        """
        if value > getattr(self, name):
            raise self.refusal(name, what, where=where, key=key)

    def refusal(self, name: str, what: str, *, where: str, key: str = "") -> LimitError:
        """Make the error for something above a limit; arguments as for `check`."""
        return LimitError(
            where,
            f"{what}, and the limit {name} is {getattr(self, name)}.",
            f"Leave it out, or raise the limit: set {SETTING}{name.upper()} in the environment, or pass "
            f"limits=unimoe.media.Limits({name}=...).",
            key=key,
        )


DEFAULTS = Limits()
"""What holds where the environment says nothing; made once, as it is asked for at each medium."""


def limits_or_default(limits: Limits | None) -> Limits:
    """Return the limits that were passed, or those of the environment."""
    return Limits.from_environment() if limits is None else limits


__all__ = ["Limits", "limits_or_default"]
