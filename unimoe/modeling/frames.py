"""Frames of clips: groups of them are averaged behind the encoder, or whole clips behind the connector.

Of whole clips in a batch, shorter ones end in frames of NaN. N groups or clips, F frames of each, C encoder width,
D hidden size.
"""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput


def encode_frames(encoder: nn.Module, pixel_values_videos: Tensor, pooling: str, **kwargs: Any) -> BaseModelOutput:
    """Encode frames (N, F, channels, height, width); average those of each group, but not of whole clips.

    Args:
        encoder: Of pictures.
        pixel_values_videos: What the processor returned.
        pooling: `video_pooling` of the layout.
        **kwargs: For the tower.

    Returns:
        `last_hidden_state` of shape (N, tokens, C), of whole clips (N * F, tokens, C); the tower's own outputs, on
        request, by frame.
    """
    if pooling == "clip":
        is_padding = ~real_frames(pixel_values_videos)[..., None, None, None]
        pixel_values_videos = pixel_values_videos.masked_fill(is_padding, 0.0)
    output: BaseModelOutput = encoder(pixel_values_videos.flatten(0, 1), **kwargs)
    if pooling == "stride":
        states: Any = output.last_hidden_state
        output.last_hidden_state = states.unflatten(0, pixel_values_videos.shape[:2]).mean(dim=1)
    return output


def real_frames(pixel_values_videos: Tensor) -> Tensor:
    """Find which frames of clips (N, F, channels, height, width) are none of padding, (N, F)."""
    return ~pixel_values_videos[:, :, 0, 0, 0].isnan()


def mean_of_clips(embeddings: Tensor, pixel_values_videos: Tensor) -> Tensor:
    """Average the `embeddings` (N * F, tokens, D) of the frames of each clip to (N, tokens, D), without those of
    frames that are padding in `pixel_values_videos` (N, F, channels, height, width).
    """
    is_real = real_frames(pixel_values_videos)[..., None, None]  # (N, F, 1, 1)
    by_clip = embeddings.unflatten(0, is_real.shape[:2])  # (N, F, tokens, D)
    return by_clip.masked_fill(~is_real, 0.0).sum(dim=1) / is_real.sum(dim=1)


__all__ = ["encode_frames", "mean_of_clips", "real_frames"]
