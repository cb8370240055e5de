"""Which releases of Uni-MoE there are: their files in the order of loading, and rules for their names.

Sources: HITsz-TMG/Uni-MoE at f5e82dd, the loaders of Uni_MoE_speech, Uni_MoE_audio, Uni_MoE_speech_dp and Uni_MoE_8e;
ishine/UMOE-Scaling-Unified-Multimodal-LLMs at ad00fc4, Uni-MoE-2. A release is data: another one is another entry of
`RELEASES`.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Family = Literal["v1", "2.0"]
Form = Literal["same", "queries", "vocabulary", "rows", "columns"]
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
        form: `same`; `queries`: without the leading 1 of (1, Q, C); `vocabulary`: rows of 0 for placeholders follow;
            `rows`, `columns`: one of several tensors side by side, in the order of the pattern's group `part`.
    """

    pattern: str
    to: str = ""
    why: str = ""
    form: Form = "same"


class Source(NamedTuple):
    """A file of a release.

    Args:
        folder: Which of the folders it lies in.
        file: Its name; with `*`, one file without that piece, or the shards that its index or else the pattern names.
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
        family: How its configuration is read.
        sound: What it hears: `speech` through Whisper and its decoder, `audio` through BEATs and a Q-Former.
        sources: Its files in the order of loading; a weight of a later file takes the place of an earlier one.
        rules: Of names; the first that matches decides.
        otherwise: What the released code does otherwise than the converted model, a sentence each.
        model_types: Of its config.json. One that no other release has decides which it is.
        num_experts: Experts of a sparse layer. None: config.json says how many.
        sparse: Which layers are sparse.
    """

    title: str
    family: Family
    sound: Literal["speech", "audio"]
    sources: tuple[Source, ...]
    rules: tuple[Rule, ...]
    otherwise: tuple[str, ...]
    model_types: tuple[str, ...] = ("llava", "llava_llama")
    num_experts: int | None = None
    sparse: Literal["all", "even"] = "all"

    def sparse_layers(self, num_layers: int) -> list[int]:
        """Say which of so many layers are sparse."""
        return list(range(0, num_layers, 1 if self.sparse == "all" else 2))

    def __str__(self) -> str:
        kinds = f"model_type {' or '.join(self.model_types)}"
        if self.num_experts is None:
            return f"{self.title} ({kinds})"
        aligner = "Whisper decoder" if self.sound == "speech" else "Q-Former"
        return f"{self.title} ({kinds}, {self.num_experts} experts in {self.sparse} layers, {aligner})"


_DECODER = (
    Rule(r"model\.embed_tokens\.weight", f"{_LANGUAGE}embed_tokens.weight", form="vocabulary"),
    Rule(r"lm_head\.weight", "lm_head.weight", form="vocabulary"),
    Rule(r"model\.(norm\.weight)", rf"{_LANGUAGE}\1"),
    Rule(r"model\.(layers\.\d+\.\w+_layernorm\.weight)", rf"{_LANGUAGE}\1"),
    Rule(r"model\.(layers\.\d+\.self_attn\.[qkvo]_proj\.(?:weight|bias))", rf"{_LANGUAGE}\1"),
    Rule(r"model\.(?:layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", why="rotary frequencies are computed"),
)
_V1 = (
    *_DECODER,
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


_2_EXPERTS = (
    Rule(r"model\.(layers\.\d+\.mlp)\.gate\.weight", rf"{_LANGUAGE}\1.router.weight"),
    Rule(
        r"model\.(layers\.\d+\.mlp)\.dynamic_real_moe\.deepspeed_moe\.experts\.deepspeed_experts\.(\d+\.\w+_proj\.weight)",
        rf"{_LANGUAGE}\1.experts.\2",
    ),
    Rule(
        r"model\.(layers\.\d+\.mlp)\.fixed_real_moe\.(?P<part>\d+)\.((?:gate|up)_proj\.weight)",
        rf"{_LANGUAGE}\1.shared_expert.\3",
        form="rows",
    ),
    Rule(
        r"model\.(layers\.\d+\.mlp)\.fixed_real_moe\.(?P<part>\d+)\.(down_proj\.weight)",
        rf"{_LANGUAGE}\1.shared_expert.\3",
        form="columns",
    ),
)
_2_TOWERS = (
    Rule(r"vision_tower\.vision_tower\.vision_model\.(.+)", r"model.encoders.image.tower.\1"),
    Rule(r"audio_tower\.audio_tower\.(.+)", r"model.encoders.speech.tower.\1"),
    Rule(r"vision_aligner\.0\.(weight|bias)", r"model.connectors.image.linear_1.\1"),
    Rule(r"vision_aligner\.2\.(weight|bias)", r"model.connectors.image.linear_2.\1"),
    Rule(r"speech_generator\..+", why="part of the decoder that speaks, which the model has not"),
    Rule(r"image_generator\..+", why="part of the generator of pictures, which the model has not"),
    Rule(r"(visual|image|task)_hidden_fcs\..+", why="leads to the generator of pictures, which the model has not"),
)


def _aligner(sound: str, name: str, *reader: Rule) -> tuple[Rule, ...]:
    """Rules of the connector of sounds: its queries, what reads the features, one linear layer or two."""
    ours, projector = f"model.connectors.{sound}", rf"{name}\.projector\."
    return (
        Rule(rf"{name}\.query_tokens", f"{ours}.queries", form="queries"),
        *reader,
        Rule(projector + r"(weight|bias)", rf"{ours}.output_proj.\1"),
        Rule(projector + r"0\.(\w+)", rf"{ours}.output_proj.linear_1.\1"),
        Rule(projector + r"2\.(\w+)", rf"{ours}.output_proj.linear_2.\1"),
    )


def _whisper_aligner(name: str) -> tuple[Rule, ...]:
    """Rules of a connector whose queries read through a Whisper decoder."""
    decoder = rf"{name}\.decoder\.audio_decoder\."
    return _aligner(
        "speech",
        name,
        Rule(decoder + r"embed_tokens\.weight", why="word embeddings of Whisper's decoder, which nobody reads"),
        Rule(decoder + "(.+)", r"model.connectors.speech.decoder.\1"),
    )


_V1_ALIGNER = r"model\.mm_audio_aligner"
_SPEECH = (
    Rule(r"model\.query_tokens", "model.connectors.speech.queries", form="queries"),
    *_whisper_aligner(_V1_ALIGNER),
)
_AUDIO = _aligner("audio", _V1_ALIGNER, Rule(_V1_ALIGNER + r"\.qformer\.(qformer\..+)", r"model.connectors.audio.\1"))

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

_2_SOURCES = (Source("tuned", "model*.safetensors"),)

_ROUNDING = "Weights of aligner and routers go through float16 in the released code; here they are as in their files."
_V1_DTYPE = "The released code merges LoRA in float16 and computes rotary tables in it; here both are in float32."
_ROUTER = "The released routers compute logits in the model's dtype, here in float32: near ties may fall otherwise."
_CHUNKS = "The released code begins window i of speech at sample i * 480,001; here at i * 480,000."
_DELTA = "The released loader writes the routers of mlp_gates.bin over those with LoRA merged; so does this."
_GUMBEL = (
    "The released code adds Gumbel noise to the choice of the second expert, also in inference; here there is none."
)

_DROP = (
    "Where config.json has token_drop true, the released code drops tokens beyond an expert's capacity in inference "
    "too, counted over all tokens of a batch, later ones as well; here none is dropped."
)
_NO_OUTPUT = "The released Omni and Image models also speak or paint; their decoder and generator are left out."
_CUT = "The released code cuts a sound off after whisper_audio_time windows of 30 s; here a longer one is refused."

RELEASES = {
    "v1-speech": Release(
        "Uni-MoE v1 speech",
        "v1",
        "speech",
        _V1_SOURCES,
        (*_V1, *_V1_EXPERTS, *_SPEECH),
        (_V1_DTYPE, _ROUNDING, _ROUTER, _CHUNKS),
        num_experts=4,
    ),
    "v1-audio": Release(
        "Uni-MoE v1 audio",
        "v1",
        "audio",
        _V1_SOURCES,
        (*_V1, *_V1_EXPERTS, *_AUDIO),
        (_V1_DTYPE, _ROUNDING, _ROUTER, _DELTA),
        num_experts=4,
        sparse="even",
    ),
    "v1.5": Release(
        "Uni-MoE v1.5",
        "v1",
        "speech",
        _V1_SOURCES,
        (*_V1, *_V1_EXPERTS, *_SPEECH),
        (_V1_DTYPE, _ROUNDING, _ROUTER, _CHUNKS, _DELTA),
        num_experts=4,
        sparse="even",
    ),
    "8e": Release(
        "Uni-MoE 8e",
        "v1",
        "speech",
        _8E_SOURCES,
        (*_V1, *_8E_EXPERTS, *_SPEECH),
        (_GUMBEL, _ROUNDING, _CHUNKS),
        num_experts=8,
    ),
    "2.0": Release(
        "Uni-MoE-2.0",
        "2.0",
        "speech",
        _2_SOURCES,
        (*_DECODER, *_2_EXPERTS, *_2_TOWERS, *_whisper_aligner("audio_aligner")),
        (_DROP, _ROUTER, _CUT, _NO_OUTPUT),
        model_types=("grin_qwen2_vl", "grin_qwen2_vl_out"),
    ),
}
"""Name of a release -> what it is made of."""

__all__ = ["RELEASES", "Family", "Form", "Release", "Rule", "Source"]
