"""Load pictures, clips and sounds from what people have at hand, and say where and why when that fails.

In: a path, bytes, a PIL image, a numpy array, a torch tensor, a dict of `datasets` or a torchcodec decoder.
Out: a picture is an RGB PIL image; a clip its sampled frames with their times; a sound a mono float32 array
(samples,) at the wanted rate. Nothing is fetched from the network. PyAV, soundfile and torchaudio are imported where
they are used.
"""

from .cached import CachedMedium, Measures
from .clips import Clip, FrameSampling, clip_times, load_clip
from .limits import Limits
from .naming import find_medium
from .pictures import is_picture, load_picture, picture_size
from .resampling import resampled_length
from .sounds import count_windows, cut_windows, load_clip_sound, load_sound, sound_length, window_samples

__all__ = [
    "CachedMedium",
    "Clip",
    "FrameSampling",
    "Limits",
    "Measures",
    "clip_times",
    "count_windows",
    "cut_windows",
    "find_medium",
    "is_picture",
    "load_clip",
    "load_clip_sound",
    "load_picture",
    "load_sound",
    "picture_size",
    "resampled_length",
    "sound_length",
    "window_samples",
]
