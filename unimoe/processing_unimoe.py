"""Chat messages and media become what the model takes: first stop of a sample.

    messages -> text with one placeholder per medium -> media loaded, cut into units, features extracted
             -> every placeholder replaced by its medium's block -> token ids, modality ids, positions, assistant mask

Everything uncertain about lengths is settled here, so that the model only scatters: `media_layout` says what a unit is
and how many tokens it fills, `processing.units` makes them. transformers' processors know image, video and audio;
speech, with its own extractor, is added here to each of their steps.
"""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from .configuration.media_layout import MediaLayout
from .configuration.remote_code import AUTO_MAP, write_remote_code
from .errors import DataError
from .files.folder import check_folder, local_folder
from .modality import MEDIA, Modality
from .processing.arguments import (
    SAMPLING_RATE,
    Options,
    explaining,
    in_order,
    known_options,
    pad_for_generation,
    sort_options,
)
from .processing.lengths import TokenCounter
from .processing.messages import Message
from .processing.placeholders import (
    CHAT_TEMPLATE,
    add_placeholder_tokens,
    arrange_media,
    check_kept,
    check_placeholder_ids,
    collect_media,
    count_placeholders,
    expand_placeholders,
    hears,
    order_of_appearance,
    require_placeholder_id,
)
from .processing.positions import position_rows
from .processing.templates import check_arguments, check_media, messages_for
from .processing.units import Block, UnitCollector, check_extractor, row_offsets


class UniMoEProcessor(ProcessorMixin):
    """Tokenizer, image processor and two feature extractors behind one call.

    Args:
        tokenizer: With the placeholder tokens of the modalities in use (see `add_placeholder_tokens`). It pads left
            from here on, as generation needs it, unless it was made with a `padding_side`.
        image_processor: For pictures and video frames. None: the processor takes neither.
        audio_feature_extractor: For sounds, such as ASTFeatureExtractor. None: the processor takes none.
        speech_feature_extractor: For speech, such as WhisperFeatureExtractor. None: the processor takes none.
        media_layout: How media become tokens: fields of `MediaLayout`; `UniMoEConfig.media_layout`.
        chat_template: Jinja template. None: `CHAT_TEMPLATE`; the tokenizer's own is not used, it knows no media.

    Raises:
        ValueError: If a part and the layout do not fit, or the tokenizer lacks a placeholder.
    """

    return_mm_token_type_ids = True

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Any = None,
        audio_feature_extractor: Any = None,
        speech_feature_extractor: Any = None,
        media_layout: dict[str, Any] | None = None,
        chat_template: str | dict[str, str] | None = None,
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        pad_for_generation(tokenizer)
        self.image_processor = image_processor
        self.audio_feature_extractor = audio_feature_extractor
        self.speech_feature_extractor = speech_feature_extractor
        self.layout = MediaLayout(**(media_layout or {}))
        self.media_layout = self.layout.to_dict()
        self.skip_tensor_conversion = [*ProcessorMixin.skip_tensor_conversion, "offset_mapping", "encoder_states"]
        self._check_parts()
        self.modalities = tuple(
            m for m in MEDIA if m.key in self.layout.grids and getattr(self, str(m.extractor_name)) is not None
        )
        self._ids = {modality: require_placeholder_id(tokenizer, modality) for modality in self.modalities}

    @classmethod
    def from_config(
        cls,
        config: Any,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Any = None,
        audio_feature_extractor: Any = None,
        speech_feature_extractor: Any = None,
        chat_template: str | dict[str, str] | None = None,
    ) -> "UniMoEProcessor":
        """Build the processor of a model: how media become tokens comes from its configuration.

        Args:
            config: A `UniMoEConfig`; `media_layout` and `*_token_id` are read.
            tokenizer: With the configuration's placeholder ids.
            image_processor: See the class.
            audio_feature_extractor: See the class.
            speech_feature_extractor: See the class.
            chat_template: See the class.

        Raises:
            ValueError: If the tokenizer's placeholder ids are not the configuration's, and as the class does.
        """
        check_placeholder_ids(tokenizer, config)
        return cls(
            tokenizer,
            image_processor,
            audio_feature_extractor,
            speech_feature_extractor,
            media_layout=config.media_layout.to_dict(),
            chat_template=chat_template,
        )

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        speech: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Turn texts with one placeholder per medium, and the media, into the model's inputs.

        Args:
            images: One picture, a flat list for the whole batch in order of appearance, or one list for each row. What
                a medium can be: `unimoe.media`. By position, pictures and text may come in either order.
            text: One text, or one for each row. None: only features are returned.
            videos: Clips, as pictures are given.
            audio: Sounds, as pictures are given. Bare samples are at `sampling_rate`.
            speech: Speech, as sounds are given.
            **kwargs: The tokenizer's (`padding`, ...), the image processor's, also nested as `text_kwargs` and
                `images_kwargs`; `return_tensors`; `sampling_rate` (Hz, default 16000); `limits`
                (`unimoe.media.Limits`); `return_mm_token_type_ids` (True); `return_text_replacement_offsets`; and
                `CALL_OPTIONS` (`video_frame_rate`, ...), which change the processor's layout for this call.

        Returns:
            `input_ids`, `attention_mask`, `mm_token_type_ids` (B, S); with `position_type="omni"`, `position_ids`
            (3, B, S); for N units of media in order of appearance: `pixel_values` (N, C, H, W), `pixel_values_videos`
            (N, F, C, H, W), `audio_features` (N, frames, mel bins), `speech_features` (N, mel bins, frames); for media
            that are encoded already, `encoder_states`: modality key -> (N, tokens, C).

        Raises:
            ValueError: If placeholders and media of a row differ in number, a medium cannot be loaded or taken,
                truncation would cut a block of placeholders, or an argument is unknown.
        """
        options = sort_options(kwargs, self.image_processor, mm_token_type_ids=self.return_mm_token_type_ids)
        images, texts = in_order(images, text)
        media = {Modality.IMAGE: images, Modality.VIDEO: videos, Modality.AUDIO: audio, Modality.SPEECH: speech}
        if not texts and all(medium is None for medium in media.values()):
            raise ValueError("There is nothing to process. Pass text, images, videos, audio or speech.")
        layout = replace(self.layout, **options.layout)
        if layout.video_sound and (heard := Modality.from_key(layout.video_sound)) not in self.modalities:
            raise self._cannot_take(heard, "the call", "video_sound")
        extractors = {modality: getattr(self, str(modality.extractor_name)) for modality in self.modalities}
        units = UnitCollector(extractors, layout, options.images, options.sampling_rate, options.limits)
        with explaining(images, texts):
            blocks = self._load(self._media_by_row(media, texts), texts, units)
        features: dict[str, Any] = units.features()
        data = self._tokenize(texts, blocks, options) if texts is not None else {}
        if options.return_tensors == "np":
            features = {name: feature.numpy() for name, feature in features.items()}
        if states := units.encoder_states():
            features["encoder_states"] = states
        return BatchFeature(
            {**data, **features},
            tensor_type=options.return_tensors,
            skip_tensor_conversion=self.skip_tensor_conversion,
        )

    def apply_chat_template(  # type: ignore[override]
        self, conversation: Any, chat_template: str | None = None, **kwargs: Any
    ) -> Any:
        """Render one conversation or a batch of them; with `tokenize=True`, load their media and process all.

        A message is {"role", "content"}; its content a string or a list of items {"type": "text", "text": ...},
        {"type": "image"|"video"|"audio"|"speech", TYPE or "path", "url", "base64": medium}; `unimoe.processing.keys`
        tells which keys are read and refused, also of what OpenAI's and Anthropic's clients write.

        Args:
            conversation: Messages, or a list of lists of messages.
            chat_template: Template or its name; None: the processor's.
            **kwargs: As in `ProcessorMixin.apply_chat_template` (`tokenize`, `return_dict`, `return_tensors`,
                `add_generation_prompt`, `continue_final_message`, `return_assistant_tokens_mask`, ...). Arguments of
                `__call__`, such as `padding`, may be given here or in `processor_kwargs`. Where `padding_side` is not,
                prompts for generation are padded left and all others right, whatever the tokenizer's default.

        Returns:
            Text; or with `tokenize=True` token ids, or with `return_dict=True` what `__call__` returns and, if asked,
            `assistant_masks` (B, S): 1 for the assistant's text and end token.

        Raises:
            DataError: If a message or item cannot be read, has a key that the template would drop, an item's type is
                not this processor's, or a text holds a control token.
            ValueError: If an argument would be dropped, and as `__call__` does.
        """
        template = self._resolve_chat_template(chat_template)
        known = known_options(self.image_processor) - {"sanitize_control_tokens"}
        check_arguments(kwargs, template, known)
        sanitized = bool(kwargs.get("sanitize_control_tokens"))
        conversations, is_batched = self.read_conversations(conversation, template=template, sanitized=sanitized)
        options = {**(kwargs.pop("processor_kwargs", None) or {}), **{k: kwargs.pop(k) for k in known & kwargs.keys()}}
        if kwargs.get("tokenize"):
            check_media(conversations, options)
        if "padding_side" not in {**options, **options.get("text_kwargs", {})}:
            continues = kwargs.get("add_generation_prompt") or kwargs.get("continue_final_message")
            options["padding_side"] = "left" if continues else "right"
        given = conversations if is_batched else conversations[0]
        return super().apply_chat_template(given, chat_template, processor_kwargs=options, **kwargs)

    def read_conversations(
        self, conversation: Any, *, template: str | None = None, sanitized: bool = False
    ) -> tuple[list[list[Message]], bool]:
        """Bring one conversation or a batch to the form that templates take; see `unimoe.processing.templates`.

        Args:
            conversation: As for `apply_chat_template`.
            template: Whose own keys of messages stay. None: the processor's.
            sanitized: Whether texts may hold control tokens.

        Returns:
            The conversations, each medium as a `Held`, and whether it was a batch.

        Raises:
            DataError: If one cannot be read, or has a medium that this processor does not take.
        """
        return messages_for(
            self._resolve_chat_template(None) if template is None else template,
            conversation,
            modalities=self.modalities,
            sanitized=sanitized,
            cannot_take=self._cannot_take,
        )

    def _normalize_conversations(self, conversation: Any) -> tuple[list[Any], bool]:
        """As transformers asks for it; `read_conversations` has done it."""
        return (conversation, True) if isinstance(conversation[0], list) else ([conversation], False)

    def count_tokens(self, messages: Sequence[dict[str, Any]]) -> int:
        """Count the tokens of one conversation as `apply_chat_template(tokenize=True)` would make them; of most media
        only the header is read.

        Raises:
            ValueError: If the conversation would be refused, as far as headers show it.
        """
        return TokenCounter(self, sampling_rate=SAMPLING_RATE)(messages)

    def create_mm_token_type_ids(self, input_ids: Any) -> list[list[int]]:
        """Give the modality id of every token: 0 text, 1 image, 2 video, 3 audio, 4 speech."""
        kinds = {token_id: int(modality) for modality, token_id in self._ids.items()}
        rows = (row if isinstance(row, list) else row.tolist() for row in input_ids)
        return [[kinds.get(token, 0) for token in row] for row in rows]

    @property
    def model_input_names(self) -> list[str]:
        """What a call returns for the model's forward."""
        features = (str(modality.feature_name) for modality in self.modalities)
        return ["input_ids", "attention_mask", "mm_token_type_ids", *features]

    @property
    def unused_input_names(self) -> list[str]:
        """What the tokenizer may return and the model does not take."""
        return ["token_type_ids"]

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Parts that transformers must load itself; `from_args_and_dict` builds the others, which are optional."""
        return ["tokenizer"]

    def to_dict(self) -> dict[str, Any]:
        """As every processor's, with what finds this class where unimoe was not imported."""
        return {**super().to_dict(), "auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]}}

    def save_pretrained(self, save_directory: str | PathLike, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Save all parts, and the file that `trust_remote_code=True` loads this class from."""
        write_remote_code(save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, *args: Any, **kwargs: Any) -> Any:
        """Load as every processor.

        Raises:
            CheckpointError: If a file of a local folder says two things, or is none.
        """
        if folder := local_folder(pretrained_model_name_or_path, kwargs.get("subfolder")):
            check_folder(folder)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build the processor from a loaded tokenizer and the contents of `processor_config.json`."""
        parts = {
            name: cls._build_part(name, processor_dict.get(name)) for name in {str(m.extractor_name) for m in MEDIA}
        }
        return super().from_args_and_dict(args, {**processor_dict, **parts}, **kwargs)

    @classmethod
    def _build_part(cls, name: str, config: dict[str, Any] | None) -> Any:
        if config is None:
            return None
        kind = "image_processor" if name == "image_processor" else "feature_extractor"
        return cls.get_possibly_dynamic_module(config[f"{kind}_type"])(**config)

    def _check_parts(self) -> None:
        for name in sorted({str(m.extractor_name) for m in MEDIA}):
            if (part := getattr(self, name)) is not None:
                self.check_argument_for_proper_class(name, part)
                check_extractor(name, part, self.layout)

    def _media_by_row(self, media: dict[Modality, Any], texts: list[str] | None) -> dict[Modality, list[list[Any]]]:
        """Assign media to rows and check each row's count against its placeholders."""
        by_row: dict[Modality, list[list[Any]]] = {}
        for modality, given in media.items():
            counts = None if texts is None else [count_placeholders(text, modality) for text in texts]
            if given is None and not any(counts or []):
                continue
            if modality not in self.modalities:
                raise self._cannot_take(modality, "the call")
            by_row[modality] = arrange_media(given, modality, counts)
        return by_row

    def _cannot_take(self, modality: Modality, where: str, key: str = "") -> DataError:
        available = ", ".join(m.key for m in self.modalities) or "text alone"
        return DataError(
            where,
            f"there is {modality.key}, but this processor takes only {available}: it has no "
            f"{modality.extractor_name}, or media_layout no grid for {modality.key!r}.",
            "Leave the medium out, or build the processor with both.",
            key=key,
        )

    def _load(
        self, media: dict[Modality, list[list[Any]]], texts: list[str] | None, units: UnitCollector
    ) -> list[list[Block]]:
        """Load all media in order of appearance; the blocks of each row, without texts of all rows together."""
        return [
            [units.add(m, media[m][row][i], f"row {row}, {m.key} {i}", beside_sound=hears(o)) for m, row, i in o]
            for o in order_of_appearance(media, texts)
        ]

    def _tokenize(self, texts: list[str], blocks: list[list[Block]], options: Options) -> dict[str, Any]:
        expanded, offsets = zip(
            *(
                expand_placeholders(text, [block.text for block in in_row])
                for text, in_row in zip(texts, blocks, strict=True)
            ),
            strict=True,
        )
        data = dict(self.tokenizer(list(expanded), **options.text))
        limits = {name: options.text.get(name) for name in ("truncation", "max_length")}
        check_kept(expanded, data["input_ids"], self._ids, limits)
        if self.layout.position_type == "omni":
            offsets_of_media = [offsets for in_row in blocks for offsets in row_offsets(in_row, self.layout)]
            mask, media_ids = data.get("attention_mask"), list(self._ids.values())
            data["position_ids"] = position_rows(data["input_ids"], mask, media_ids, offsets_of_media)
        if options.return_text_replacement_offsets:
            data["text_replacement_offsets"] = list(offsets)
        if options.return_mm_token_type_ids:
            data["mm_token_type_ids"] = self.create_mm_token_type_ids(data["input_ids"])
        return {name: value for name, value in data.items() if name not in self.unused_input_names}

    def _multimodal_inputs_from_conversations(
        self, conversations: list[Any], audio_loading_params: dict[str, Any], load_audio_from_video: bool = False
    ) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Collect the media of each row; `__call__` loads them. Speech travels as an additional input."""
        if load_audio_from_video:
            raise ValueError(
                "load_audio_from_video is transformers' word; here, pass video_sound='audio' or 'speech'."
            )
        found = collect_media(conversations)
        sounds = {m: found[m] if any(found[m]) else None for m in (Modality.AUDIO, Modality.SPEECH)}
        additional = {"speech": sounds[Modality.SPEECH]}
        return found[Modality.IMAGE], found[Modality.VIDEO], sounds[Modality.AUDIO], additional

    def _adjust_assistant_masks_indices(self, processed_dict: Any, generation_indices: Any) -> Any:
        """As in transformers, but media that an assistant's turn holds are not the assistant's words: 0."""
        processed = super()._adjust_assistant_masks_indices(processed_dict, generation_indices)
        kinds = self.create_mm_token_type_ids(processed["input_ids"])
        processed["assistant_masks"] = [
            [kept if kind == 0 else 0 for kept, kind in zip(mask, row, strict=True)]
            for mask, row in zip(processed["assistant_masks"], kinds, strict=True)
        ]
        return processed


__all__ = ["CHAT_TEMPLATE", "UniMoEProcessor", "add_placeholder_tokens"]
