"""The configuration of connectors, from an encoder's width to the language model's."""

import math
from typing import Any, Literal

from transformers import AutoConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import SubConfigSpec

from .base import CheckedConfig, require
from .checks import checked

ConnectorType = Literal["mlp", "pooling", "pixel_shuffle", "qformer", "blip2_qformer", "query_decoder"]

_WITH_QUERIES = ("qformer", "blip2_qformer", "query_decoder")
# Fields of a connector that only some types read.
_CONNECTOR_FIELDS = {
    "hidden_size": ("mlp", "pooling", "pixel_shuffle", "qformer"),
    "hidden_act": ("mlp", "pooling", "pixel_shuffle", "qformer"),
    "stack": ("mlp",),
    "stride": ("pooling", "pixel_shuffle"),
    "output_grid": ("pooling",),
    "num_queries": _WITH_QUERIES,
    "num_output_layers": _WITH_QUERIES,
    "num_hidden_layers": ("qformer",),
    "num_attention_heads": ("qformer",),
    "dropout": ("qformer",),
    "qformer_config": ("blip2_qformer",),
    "decoder_config": ("query_decoder",),
    "causal": ("query_decoder",),
}
_NUM_QUERIES = {"qformer": 32, "blip2_qformer": 32, "query_decoder": 200}  # of BLIP-2; of Uni-MoE-2.0-Omni


@checked
class UniMoEConnectorConfig(CheckedConfig):
    """Connector from an encoder's width to the language model's (transformers: `multi_modal_projector`).

    Args:
        type: `mlp` (LLaVA: two linear layers), `pooling` (Uni-MoE 2.0: two linear layers, an average of neighbours),
            `pixel_shuffle` (InternVL: neighbours side by side, two linear layers), `qformer` (learned queries that
            attend to the features in every layer), `blip2_qformer` (learned queries in BLIP-2's own Q-Former) or
            `query_decoder` (Uni-MoE: learned queries in a Whisper decoder).
        hidden_size: Inner width; of all but the two last, which have their own. None: the language model's.
        hidden_act: Activation; of all but the two last, which have their own.
        stack: For `mlp`, how many neighbouring tokens are concatenated into one; it divides the number of tokens.
        stride: For `pooling` and `pixel_shuffle`, rows and columns of the block of tokens that becomes one. A number:
            a square block or, of tokens in one row or column, so many neighbours.
        output_grid: For `pooling`, instead of a stride: rows and columns of what comes out, whatever went in.
        num_queries: For `qformer`, `blip2_qformer` and `query_decoder`, tokens for a unit. None: 32, 32 and 200.
        num_output_layers: For the same three, linear layers behind the queries: 1, or 2 with an exact GELU between
            (`mlp2x_gelu`), the inner one of the language model's width.
        num_hidden_layers, num_attention_heads: For `qformer`.
        dropout: For `qformer`, the share dropped of what each attention and feed-forward adds.
        qformer_config: For `blip2_qformer`, a configuration of transformers' `Blip2QFormerModel`, whose
            `encoder_hidden_size` is the encoder's width; fields that it leaves out are BLIP-2's.
        decoder_config: For `query_decoder`, a Whisper configuration, of which the decoder is read; as wide as the
            encoder.
        causal: For `query_decoder`, whether a query sees only those before it: so Whisper's decoder was trained, and
            so both published models use it. Without, pretrained weights meet what they have never seen.
    """

    model_type = "unimoe_connector"
    sub_configs_defaults = {
        "qformer_config": SubConfigSpec(AutoConfig, model_type="blip_2_qformer", optional=True),
        "decoder_config": SubConfigSpec(AutoConfig, model_type="whisper", optional=True),
    }

    type: ConnectorType = "mlp"
    hidden_size: int | None = None
    hidden_act: str = "gelu"
    stack: int = 1
    stride: int | list[int] | None = None
    output_grid: list[int] | None = None
    num_queries: int | None = None
    num_output_layers: int = 1
    num_hidden_layers: int = 2
    num_attention_heads: int = 8
    dropout: float | int = 0.0
    qformer_config: Any = None
    decoder_config: Any = None
    causal: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_queries is None:
            self.num_queries = _NUM_QUERIES.get(self.type)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the fields against each other.

        Raises:
            ValueError: Naming the field.
        """
        for name, types in _CONNECTOR_FIELDS.items():
            given = getattr(self, name) != type(self).__dataclass_fields__[name].default
            require(
                not given or self.type in types, f"{name} is for type={' or '.join(types)}; this is a {self.type}."
            )
        for name in ("stack", "num_queries", "num_hidden_layers", "num_attention_heads"):
            count = getattr(self, name)
            require(count is None or count >= 1, f"{name} is {count}; it is at least 1.")
        require(self.num_output_layers in (1, 2), f"num_output_layers is {self.num_output_layers}; it is 1 or 2.")
        for name in ("stride", "output_grid"):
            pair = getattr(self, name)
            numbers = [pair, pair] if isinstance(pair, int) else pair
            require(
                numbers is None or (len(numbers) == 2 and min(numbers) >= 1),
                f"{name} is {pair}; it is [rows, columns], each at least 1.",
            )
        require(self.hidden_act in ACT2FN, f"hidden_act {self.hidden_act!r} is not an activation of transformers.")
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}; it is a share, at least 0 and below 1.")
        if self.type == "pooling":
            require(
                (self.stride is None) != (self.output_grid is None),
                "pooling needs either a stride, e.g. 2, or an output_grid, [rows, columns].",
            )
        elif self.type == "pixel_shuffle":
            require(self.stride is not None, "pixel_shuffle needs a stride, e.g. 2.")
        elif self.type == "blip2_qformer":
            self._check_qformer()
        elif self.type == "query_decoder":
            self._check_decoder()

    def _check_qformer(self) -> None:
        qformer = self.qformer_config
        kind = getattr(qformer, "model_type", None)
        require(
            kind == "blip_2_qformer", f"blip2_qformer needs the qformer_config of a BLIP-2 Q-Former, got {kind!r}."
        )
        width, heads, every = qformer.hidden_size, qformer.num_attention_heads, qformer.cross_attention_frequency
        require(
            width % heads == 0,
            f"qformer_config.num_attention_heads ({heads}) does not divide its hidden_size ({width}).",
        )
        require(every >= 1, f"qformer_config.cross_attention_frequency is {every}; it is at least 1.")
        require(
            not qformer.use_qformer_text_input,
            "qformer_config.use_qformer_text_input: queries alone go through this Q-Former; set it to false.",
        )

    def _check_decoder(self) -> None:
        decoder, queries = self.decoder_config, self.num_queries or 0
        kind = getattr(decoder, "model_type", None)
        require(kind == "whisper", f"query_decoder needs the decoder_config of a Whisper model, got {kind!r}.")
        require(
            queries <= decoder.max_target_positions,
            f"num_queries is {queries}, but decoder_config has {decoder.max_target_positions} max_target_positions.",
        )

    def misfit(self, encoder: Any) -> str | None:
        """Say why the connector cannot read the tokens of an encoder with this configuration; None if it can."""
        rows, columns = encoder.token_grid
        if rows * columns % self.stack:
            return f"stack ({self.stack}) does not divide {rows * columns} tokens."
        height, width = self.block([rows, columns])
        if rows % height or columns % width:
            return f"stride {[height, width]} does not divide the {rows} rows and {columns} columns of tokens."
        if self.output_grid and (self.output_grid[0] > rows or self.output_grid[1] > columns):
            return f"output_grid {self.output_grid} is larger than the {rows} rows and {columns} columns of tokens."
        if self.qformer_config and self.qformer_config.encoder_hidden_size != encoder.hidden_size:
            return (
                f"qformer_config.encoder_hidden_size ({self.qformer_config.encoder_hidden_size}) is not the encoder's "
                f"width ({encoder.hidden_size}). Set it to that."
            )
        if self.decoder_config and self.decoder_config.d_model != encoder.hidden_size:
            return (
                f"decoder_config.d_model ({self.decoder_config.d_model}) is not the encoder's width "
                f"({encoder.hidden_size}). Take encoder and decoder of one Whisper model."
            )
        return None

    def block(self, encoder_grid: list[int]) -> list[int]:
        """Rows and columns of the tokens that `stride` makes one; of tokens in one row or column, a row or column."""
        if isinstance(self.stride, int):
            in_a_row = max(encoder_grid) > 1
            return [1 if tokens == 1 and in_a_row else self.stride for tokens in encoder_grid]
        return self.stride or [1, 1]

    def grid(self, encoder_grid: list[int]) -> list[int]:
        """Rows and columns in which the tokens of one unit lie in the language model, row by row.

        Args:
            encoder_grid: `token_grid` of the encoder.
        """
        if self.num_queries is not None:
            return [1, self.num_queries]
        if self.output_grid is not None:
            return self.output_grid
        (rows, columns), (height, width) = encoder_grid, self.block(encoder_grid)
        if columns % self.stack:
            return [1, rows * columns // self.stack]  # tokens are concatenated across the end of a row
        return [rows // height, columns // (width * self.stack)]

    def num_tokens(self, encoder_grid: list[int]) -> int:
        """Tokens in the language model for one unit, whose features lie in `encoder_grid`."""
        return math.prod(self.grid(encoder_grid))


__all__ = ["ConnectorType", "UniMoEConnectorConfig"]
