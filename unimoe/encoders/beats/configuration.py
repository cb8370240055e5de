"""The configuration of BEATs, an encoder of sounds that transformers does not have; `modeling` is it."""

from transformers.activations import ACT2FN

from ...configuration.base import CheckedConfig, require
from ...configuration.checks import checked


@checked
class UniMoEBeatsConfig(CheckedConfig):
    """BEATs (Chen et al. 2022, https://arxiv.org/abs/2212.09058); the defaults are the published base model.

    Args:
        max_length: Spectrogram frames of one window, 10 ms each. A multiple of patch_size, as is num_mel_bins.
        mask_padding: Read from a last band which frames are padding (`BeatsFeatureExtractor` with `n_samples` makes
            it), and leave patches of padding out of what positions and attention see. Frames behind the last whole
            patch are not read then, so max_length may be any number. It exists for the released weights of Uni-MoE
            v1; nobody should choose it for a new model.
        patch_embedding_size: Width of a patch before it is projected to hidden_size.
        num_conv_pos_embeddings, num_conv_pos_embedding_groups: Kernel and groups of the convolution over positions.
        num_buckets, max_bucket_distance: Of the relative position bias; farther patches share the last bucket.
    """

    model_type = "unimoe_beats"

    max_length: int = 1024
    mask_padding: bool = False
    num_mel_bins: int = 128
    patch_size: int = 16
    patch_embedding_size: int = 512
    conv_bias: bool = False
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    num_buckets: int = 320
    max_bucket_distance: int = 800
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def validate_architecture(self) -> None:
        """Check the fields against each other.

        Raises:
            ValueError: Naming the fields that do not fit, and their values.
        """
        require(self.patch_size >= 1, f"patch_size is {self.patch_size}; it counts frames and bins, at least 1.")
        for name, divisor in (
            *(() if self.mask_padding else (("max_length", "patch_size"),)),
            ("num_mel_bins", "patch_size"),
            ("hidden_size", "num_attention_heads"),
            ("hidden_size", "num_conv_pos_embedding_groups"),
        ):
            value, part = getattr(self, name), getattr(self, divisor)
            require(value % part == 0, f"{name} ({value}) must be a multiple of {divisor} ({part}).")
        patches = (self.max_length // self.patch_size) * (self.num_mel_bins // self.patch_size)
        require(
            not self.mask_padding or 0 < patches <= self.max_length,
            f"mask_padding: {self.max_length} frames (max_length) make {patches} patches, and there is to be one at "
            "least and no more than frames. Take a larger max_length, or fewer num_mel_bins.",
        )
        # A quarter of the buckets holds one distance each; the logarithms of the others need farther ones.
        near = self.num_buckets // 4
        require(
            near >= 1 and self.max_bucket_distance > near,
            f"max_bucket_distance ({self.max_bucket_distance}) must exceed a quarter of num_buckets "
            f"({self.num_buckets}), of which there are at least 4.",
        )
        require(self.hidden_act in ACT2FN, f"hidden_act {self.hidden_act!r} is not an activation of transformers.")


__all__ = ["UniMoEBeatsConfig"]
