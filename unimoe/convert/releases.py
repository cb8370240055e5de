"""Which releases of the Uni-MoE v1 family there are: their files in the order of loading, and rules for their names.

Source: HITsz-TMG/Uni-MoE at f5e82dd, the loaders of Uni_MoE_speech, Uni_MoE_audio, Uni_MoE_speech_dp and Uni_MoE_8e.
A release is data: another one is another entry of `RELEASES`.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Form = Literal["same", "queries", "vocabulary"]
_LANGUAGE = "model.language_model."
_EXPERTS_OF_8E = (
    "mlp_audiocap",
    "mlp_basev",
    "mlp_base",
    "mlp_base1",
    "mlp_base4",
    "mlp_base7",
    "mlp_base",
    "mlp_base7",
)


class Rule(NamedTuple):
    """What becomes of tensors with a name.

    Args:
        pattern: Regular expression of the whole name in the release.
        to: Name in our checkpoints, with groups of the pattern as `\\1`. Empty: the tensor is left out.
        why: Why it is left out.
        form: `same`; `queries`: without the leading 1 of (1, Q, C); `vocabulary`: rows of 0 for placeholders follow.
    """

    pattern: str
    to: str = ""
    why: str = ""
    form: Form = "same"


class Source(NamedTuple):
    """A file of a release.

    Args:
        folder: Which of the folders it lies in.
        file: Its name; of the base, its shards.
        is_lora: Whether it holds pairs that are merged into weights read before.
        expert: Of which expert it is; its names then count by layer and projection alone, as the released loader reads
            them.
    """

    folder: Literal["base", "tuned", "experts"]
    file: str
    is_lora: bool = False
    expert: int | None = None


@dataclass(frozen=True)
class Release:
    """One release.

    Args:
        title: What it is.
        num_experts: Experts of a sparse layer.
        sparse: Which layers are sparse.
        sound: What it hears: `speech` through Whisper and its decoder, `audio` through BEATs and a Q-Former.
        sources: Its files in the order of loading; a weight of a later file takes the place of an earlier one.
        rules: Of names; the first that matches decides.
        otherwise: What the released code does otherwise than the converted model, a sentence each.
    """

    title: str
    num_experts: int
    sparse: Literal["all", "even"]
    sound: Literal["speech", "audio"]
    sources: tuple[Source, ...]
    rules: tuple[Rule, ...]
    otherwise: tuple[str, ...]

    def sparse_layers(self, num_layers: int) -> list[int]:
        """Say which of so many layers are sparse."""
        return list(range(0, num_layers, 1 if self.sparse == "all" else 2))

    def __str__(self) -> str:
        aligner = "Whisper decoder" if self.sound == "speech" else "Q-Former"
        return f"{self.title} ({self.num_experts} experts in {self.sparse} layers, {aligner})"


_COMMON = (
    Rule(r"model\.embed_tokens\.weight", f"{_LANGUAGE}embed_tokens.weight", form="vocabulary"),
    Rule(r"lm_head\.weight", "lm_head.weight", form="vocabulary"),
    Rule(r"model\.(norm\.weight)", rf"{_LANGUAGE}\1"),
    Rule(r"model\.(layers\.\d+\.\w+_layernorm\.weight)", rf"{_LANGUAGE}\1"),
    Rule(r"model\.(layers\.\d+\.self_attn\.[qkvo]_proj\.weight)", rf"{_LANGUAGE}\1"),
    Rule(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", why="rotary frequencies are computed"),
    Rule(r"model\.(vision|audio)_tower\..+", why="a frozen copy of a tower, which is read from its own folder"),
    Rule(r"model\.mm_projector\.0\.(weight|bias)", r"model.connectors.image.linear_1.\1"),
    Rule(r"model\.mm_projector\.2\.(weight|bias)", r"model.connectors.image.linear_2.\1"),
)
_V1_EXPERTS = (
    Rule(r"model\.(layers\.\d+\.mlp)\.gate\.weight", rf"{_LANGUAGE}\1.router.weight"),
    Rule(
        r"model\.layers\.\d+\.mlp\.gate\.lora_[AB]\.default\.weight",
        why="low-rank change of a router, which the released loader does not read",
    ),
    Rule(r"model\.(layers\.\d+\.mlp\.experts\.\d+\.\w+_proj\.weight)", rf"{_LANGUAGE}\1"),
    Rule(r"model\.(layers\.\d+\.mlp\.\w+_proj\.weight)", rf"{_LANGUAGE}\1"),
)
_8E_EXPERTS = (
    Rule(r"model\.(layers\.\d+\.mlp)\.deepspeed_moe\.gate\.wg\.weight", rf"{_LANGUAGE}\1.router.weight"),
    Rule(
        r"model\.(layers\.\d+\.mlp)\.deepspeed_moe\.experts\.deepspeed_experts\.(\d+\.\w+_proj\.weight)",
        rf"{_LANGUAGE}\1.experts.\2",
    ),
    Rule(r"model\.layers\.\d+\.mlp\.(gate|experts)\..+", why="of the base with 4 experts; the 8 have their own files"),
)


def _aligner(sound: str, *reader: Rule) -> tuple[Rule, ...]:
    """Rules of the connector of sounds: its queries, what reads the features, one linear layer or two."""
    ours, projector = f"model.connectors.{sound}", r"model\.mm_audio_aligner\.projector\."
    return (
        Rule(r"model\.(?:mm_audio_aligner\.)?query_tokens", f"{ours}.queries", form="queries"),
        *reader,
        Rule(projector + r"(weight|bias)", rf"{ours}.output_proj.\1"),
        Rule(projector + r"0\.(\w+)", rf"{ours}.output_proj.linear_1.\1"),
        Rule(projector + r"2\.(\w+)", rf"{ours}.output_proj.linear_2.\1"),
    )


_SPEECH = _aligner(
    "speech",
    Rule(
        r"model\.mm_audio_aligner\.decoder\.audio_decoder\.embed_tokens\.weight",
        why="word embeddings of Whisper's decoder, which nobody reads",
    ),
    Rule(r"model\.mm_audio_aligner\.decoder\.audio_decoder\.(.+)", r"model.connectors.speech.decoder.\1"),
)
_AUDIO = _aligner("audio", Rule(r"model\.mm_audio_aligner\.qformer\.(qformer\..+)", r"model.connectors.audio.\1"))

_BASE = Source("base", "pytorch_model*.bin")
_PROJECTOR = Source("tuned", "non_lora_trainables.bin")
_ADAPTER = Source("tuned", "adapter_model.bin", is_lora=True)
_ALIGNER = Source("tuned", "mm_audio_aligner.bin")
_ROUTERS = Source("tuned", "mlp_gates.bin")
_V1_SOURCES = (_BASE, _PROJECTOR, _ADAPTER, _ALIGNER, _ROUTERS)
_8E_SOURCES = (
    _BASE,
    *(Source("experts", f"{name}.bin", expert=expert) for expert, name in enumerate(_EXPERTS_OF_8E)),
    *(Source("tuned", f"{expert}_mlp_experts.bin", is_lora=True, expert=expert) for expert in range(8)),
    _PROJECTOR,
    _ROUTERS,
    _ADAPTER,
    _ALIGNER,
)

_ROUNDING = "Weights of aligner and routers go through float16 in the released code; here they are as in their files."
_V1_DTYPE = "The released code merges LoRA in float16 and computes rotary tables in it; here both are in float32."
_ROUTER = "The released routers compute logits in the model's dtype, here in float32: near ties may fall otherwise."
_CHUNKS = "The released code begins window i of speech at sample i * 480,001; here at i * 480,000."
_DELTA = "The released loader writes the routers of mlp_gates.bin over those with LoRA merged; so does this."
_GUMBEL = (
    "The released code adds Gumbel noise to the choice of the second expert, also in inference; here there is none."
)

RELEASES = {
    "v1-speech": Release(
        "Uni-MoE v1 speech",
        4,
        "all",
        "speech",
        _V1_SOURCES,
        (*_COMMON, *_V1_EXPERTS, *_SPEECH),
        (_V1_DTYPE, _ROUNDING, _ROUTER, _CHUNKS),
    ),
    "v1-audio": Release(
        "Uni-MoE v1 audio",
        4,
        "even",
        "audio",
        _V1_SOURCES,
        (*_COMMON, *_V1_EXPERTS, *_AUDIO),
        (_V1_DTYPE, _ROUNDING, _ROUTER, _DELTA),
    ),
    "v1.5": Release(
        "Uni-MoE v1.5",
        4,
        "even",
        "speech",
        _V1_SOURCES,
        (*_COMMON, *_V1_EXPERTS, *_SPEECH),
        (_V1_DTYPE, _ROUNDING, _ROUTER, _CHUNKS, _DELTA),
    ),
    "8e": Release(
        "Uni-MoE 8e",
        8,
        "all",
        "speech",
        _8E_SOURCES,
        (*_COMMON, *_8E_EXPERTS, *_SPEECH),
        (_GUMBEL, _ROUNDING, _CHUNKS),
    ),
}
"""Name of a release -> what it is made of."""

__all__ = ["RELEASES", "Form", "Release", "Rule", "Source"]
