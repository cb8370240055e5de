"""Encoding media apart from the language model, under transformers' names, on the model with its head."""

from typing import Any

from torch import Tensor


class FeatureMethods:
    """What `UniMoEModel` offers, offered by the model around it."""

    model: Any

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        """Encode pictures; see `UniMoEModel.encode`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    def get_video_features(self, pixel_values_videos: Tensor, **kwargs: Any) -> Any:
        """Encode clips; see `UniMoEModel.encode`."""
        return self.model.get_video_features(pixel_values_videos, **kwargs)

    def get_audio_features(self, audio_features: Tensor, **kwargs: Any) -> Any:
        """Encode windows of sound; see `UniMoEModel.encode`."""
        return self.model.get_audio_features(audio_features, **kwargs)

    def get_speech_features(self, speech_features: Tensor, **kwargs: Any) -> Any:
        """Encode windows of speech; see `UniMoEModel.encode`."""
        return self.model.get_speech_features(speech_features, **kwargs)


__all__ = ["FeatureMethods"]
