"""What BEATs hears: windows of sound in, normalised log-mel spectrograms of one size out."""

from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor

FRAME_LENGTH_MS = 25
FRAME_SHIFT_MS = 10


class BeatsFeatureExtractor(SequenceFeatureExtractor):
    """Kaldi's log-mel filter bank of 16-bit samples, `(fbank - mean) / (2 * std)`.

    Chen et al. 2022, section 4.1 (https://arxiv.org/abs/2212.09058); mean and std are those of
    https://github.com/microsoft/unilm/blob/master/beats/BEATs.py. Departure: a window has a fixed length, shorter
    sounds are followed by silence, and the model attends to the silence too. Needs torchaudio.

    Args:
        max_length: Frames of a window, 10 ms apart; 1024 are 10.24 s. None: 1024 or, with `n_samples`, the frames that
            lie within so many samples.
        n_samples: Samples of a window. With it a shorter sound goes on with its last sample, and a last band tells
            frames of sound (1) from frames of padding (0), for a tower with `mask_padding`: samples are dealt out to
            frames evenly (160 each in v1), and a frame without one of the sound is padding. It exists for the released
            weights of Uni-MoE v1 (480,000 samples, 2998 frames); nobody should choose it for a new model.
        max_windows: Most windows of one sound; a longer one is refused. v1 was made with 20. None: no limit.
        num_mel_bins: Mel bands.
        sampling_rate: Hz.
        mean, std: Of log-mel values over AudioSet.
    """

    model_input_names = ["input_values"]

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 16000,
        num_mel_bins: int = 128,
        max_length: int | None = None,
        padding_value: float = 0.0,
        mean: float = 15.41663,
        std: float = 6.55582,
        n_samples: int | None = None,
        max_windows: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.num_mel_bins = num_mel_bins
        self.n_samples = n_samples
        self.max_length = self._frames(max_length)
        self.max_windows = max_windows
        self.mean = mean
        self.std = std
        if max_windows is not None and max_windows < 1:
            raise ValueError(f"max_windows is {max_windows}; it is at least 1, or None for no limit.")

    def __call__(
        self,
        raw_speech: np.ndarray | list[float] | list[np.ndarray] | list[list[float]],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Extract features.

        Args:
            raw_speech: Mono samples in -1..1 of one sound (n,), or of several as a list or an array (N, n).
            sampling_rate: Their rate, Hz. None: the extractor's own.
            return_tensors: `pt`, `np`, or None for a list of arrays.
            **kwargs: Of other extractors; not read.

        Returns:
            `input_values`: float32, (N, max_length, num_mel_bins), with `n_samples` a band more.

        Raises:
            ValueError: If the rate is another, or a sound is not mono, or longer than a window.
            ImportError: If torchaudio is not installed.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"The sound is at {sampling_rate} Hz, but BEATs was trained at {self.sampling_rate} Hz. Resample it "
                "(unimoe.media.load_sound does)."
            )
        one = len(raw_speech) == 0 or np.ndim(raw_speech[0]) == 0
        sounds = [raw_speech] if one else raw_speech
        features = [self._filter_bank(np.asarray(sound, dtype=np.float32)) for sound in sounds]
        return BatchFeature({"input_values": features}, tensor_type=return_tensors)

    @property
    def _frame(self) -> int:
        """Samples of a frame."""
        return self.sampling_rate * FRAME_LENGTH_MS // 1000

    @property
    def _shift(self) -> int:
        """Samples from the start of a frame to the start of the next."""
        return self.sampling_rate * FRAME_SHIFT_MS // 1000

    def _frames(self, max_length: int | None) -> int:
        """Frames of a window, which `n_samples` decides."""
        if self.n_samples is None:
            return 1024 if max_length is None else max_length
        if self.n_samples < self._frame:
            raise ValueError(f"n_samples is {self.n_samples}; a window holds a frame of {self._frame} at least.")
        frames = (self.n_samples - self._frame) // self._shift + 1
        if max_length not in (None, frames):
            raise ValueError(
                f"max_length is {max_length}, but {frames} frames lie within {self.n_samples} samples (n_samples). "
                "State one of both."
            )
        return frames

    def _filter_bank(self, samples: np.ndarray) -> np.ndarray:
        """Features (max_length, num_mel_bins) of one sound (n,), with `n_samples` a band more."""
        most = self.n_samples or self.max_length * self._shift
        is_nothing = self.n_samples is not None and not samples.size  # of which no last sample could be repeated
        if samples.ndim != 1 or len(samples) > most or is_nothing:
            raise ValueError(
                f"A sound is mono and has at most {most} samples ({self.max_length} frames), got shape "
                f"{samples.shape}. Cut it with unimoe.media.cut_windows, or raise max_length here and in the model's "
                "configuration."
            )
        try:
            from torchaudio.compliance.kaldi import fbank
        except (ImportError, OSError) as error:  # OSError: a torchaudio built for another torch
            raise ImportError("The features of BEATs need torchaudio: `pip install torchaudio`.") from error
        # The last frame starts (max_length - 1) shifts after the first.
        total = self.n_samples or (self.max_length - 1) * self._shift + self._frame
        padded = np.pad(samples, (0, total - len(samples)), mode="edge" if self.n_samples else "constant")
        values = fbank(
            torch.from_numpy(padded)[None] * 2**15,
            num_mel_bins=self.num_mel_bins,
            sample_frequency=float(self.sampling_rate),
            frame_length=float(FRAME_LENGTH_MS),
            frame_shift=float(FRAME_SHIFT_MS),
        )  # (max_length, num_mel_bins)
        normalised = ((values - self.mean) / (2 * self.std)).numpy()
        if self.n_samples is None:
            return normalised
        is_sound = np.arange(self.max_length) * (self.n_samples // self.max_length) < len(samples)
        return np.concatenate([normalised, is_sound[:, None].astype(np.float32)], axis=1)


__all__ = ["BeatsFeatureExtractor"]
