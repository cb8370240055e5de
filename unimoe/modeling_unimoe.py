"""The multimodal model: encoders -> connectors -> merge into the text embeddings -> language model -> logits and loss.

The processor has settled all lengths; here features are scattered onto their placeholder tokens. B batch, S sequence,
D hidden size, C encoder width. A *unit* is a picture or a tile of it, a group of a clip's frames, or a window of sound
or speech.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_unimoe import UniMoEConfig
from .connectors import build_connector
from .encoders import Encoder
from .errors import DataError
from .modality import Modality
from .modeling.base import UniMoEPreTrainedModel, asked_for, require_one
from .modeling.frames import encode_frames, mean_of_clips
from .modeling.generation import MultimodalGeneration, require_positions
from .modeling.head import LanguageHead
from .modeling.merge import check_counts, modality_ids, units_of, with_media, zero_length_pass
from .modeling.outputs import EncoderOutputs, UniMoEModelOutput, UniMoEOutput, formerly_past_key_values
from .modeling.parts import group_by_part, unread_parameters
from .modeling.text import UniMoETextModel

INPUT_MODALITIES: Any = ("image", "video", "audio", "text")  # those that transformers knows, and as a tuple


class UniMoEModel(UniMoEPreTrainedModel):
    """Encoders, connectors and language model, without the head."""

    config_class = UniMoEConfig
    input_modalities = INPUT_MODALITIES

    def __init__(self, config: UniMoEConfig) -> None:
        super().__init__(config)
        self.language_model = UniMoETextModel._from_config(config.text_config)
        self.encoders = nn.ModuleDict({key: Encoder(config.encoder_config(key)) for key in config.encoder_keys})
        width = config.text_config.hidden_size
        self.connectors = nn.ModuleDict(
            {
                key: build_connector(
                    config.connector_config(key),
                    input_size=config.encoder_config(key).hidden_size,
                    output_size=width,
                    grid=config.encoder_config(key).token_grid,
                )
                for key in config.encoder_keys
            }
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings of the language model."""
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings of the language model."""
        self.language_model.embed_tokens = value

    def encode(self, modality: Modality, features: Tensor, **kwargs: Any) -> Any:
        """Turn features of one modality into embeddings of the language model.

        Args:
            modality: Which encoder and connector to use.
            features: What the processor returned under `modality.feature_name`; N units along the first dimension.
            **kwargs: For the tower, such as `output_hidden_states`.

        Returns:
            BaseModelOutputWithPooling: `last_hidden_state`, the encoder's tokens; `pooler_output`, a tuple with the
            embeddings (tokens, D) of each unit; `hidden_states` and `attentions` of the tower on request.

        Raises:
            DataError: If the model has no encoder for the modality.
        """
        output = self.run_encoder(modality, features, **kwargs)
        connected = self.connectors[modality.encoder_key](output.last_hidden_state)
        if modality is Modality.VIDEO and self.config.video_pooling == "clip":
            connected = mean_of_clips(connected, features)
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=connected.unbind(),  # N of (tokens, D)
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def run_encoder(self, modality: Modality, features: Tensor, **kwargs: Any) -> BaseModelOutput:
        """Run the encoder of a modality alone; arguments as for `encode`.

        Returns:
            `last_hidden_state`, the encoder's tokens (N, tokens, C), which `connect` and `encoder_states` of the
            forward take; `hidden_states` and `attentions` of the tower on request.

        Raises:
            DataError: If the model has no encoder for the modality.
        """
        self.require_encoder(modality, str(modality.feature_name), self.encoders.keys())
        configs = (self.config, self.config.encoder_config(modality.encoder_key))
        kwargs = {
            **dict.fromkeys(asked_for(configs) - {"output_router_logits"}, True),
            **{k: v for k, v in kwargs.items() if v is not None},
        }
        if modality is Modality.VIDEO:
            return encode_frames(self.encoders["image"], features, self.config.video_pooling, **kwargs)
        return self.encoders[modality.encoder_key](features, **kwargs)

    def require_encoder(self, modality: Modality, argument: str, parts: Collection[str]) -> None:
        """Refuse an argument that holds media of a modality that is not among `parts`, encoders or connectors.

        Raises:
            DataError: Naming the argument, and what the model takes.
        """
        if modality.encoder_key not in parts:
            raise DataError(
                f"Got {argument}, but this model takes {', '.join(parts) or 'text only'}. Leave the "
                f"{modality.key} out, or give the configuration an encoder for it."
            )

    def connect(self, modality: Modality, states: Tensor) -> BaseModelOutputWithPooling:
        """Turn what an encoder gave (N, tokens, C) into embeddings of the language model, as `encode` returns them.

        Raises:
            DataError: If they are not of this model's encoder, or of frames that are averaged behind the connector.
        """
        key = modality.encoder_key
        self.require_encoder(modality, f"encoder_states[{modality.key!r}]", self.connectors.keys())
        if modality is Modality.VIDEO and self.config.video_pooling == "clip":
            raise DataError("encoder_states['video']: video_pooling is 'clip'. Pass pixel_values_videos instead.")
        encoder = self.config.encoder_config(key)
        if states.shape[1:] != (wanted := (encoder.num_tokens, encoder.hidden_size)):
            raise DataError(
                f"encoder_states[{modality.key!r}] have the shape {tuple(states.shape)}, but this model's encoder "
                f"gives (units, {wanted[0]}, {wanted[1]}). Encode the media with this model."
            )
        states = states.to(next(self.connectors[key].parameters()))
        units: Any = self.connectors[key](states).unbind()  # N of (tokens, D)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=units)

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        """Encode pictures (N, channels, height, width); see `encode`."""
        return self.encode(Modality.IMAGE, pixel_values, **kwargs)

    @can_return_tuple
    def get_video_features(self, pixel_values_videos: Tensor, **kwargs: Any) -> Any:
        """Encode groups of frames of clips (N, stride, channels, height, width), or whole clips; see `encode`."""
        return self.encode(Modality.VIDEO, pixel_values_videos, **kwargs)

    @can_return_tuple
    def get_audio_features(self, audio_features: Tensor, **kwargs: Any) -> Any:
        """Encode windows of sound; see `encode`."""
        return self.encode(Modality.AUDIO, audio_features, **kwargs)

    @can_return_tuple
    def get_speech_features(self, speech_features: Tensor, **kwargs: Any) -> Any:
        """Encode windows of speech; see `encode`."""
        return self.encode(Modality.SPEECH, speech_features, **kwargs)

    def encode_all(
        self,
        features: dict[str, Tensor | None],
        given: EncoderOutputs | None = None,
        states: Mapping[str, Tensor | None] | None = None,
    ) -> EncoderOutputs:
        """Encode every modality whose features are there, and connect those whose encoder's `states` are; `given`
        outputs are kept. All are by modality key, but features by the argument's name.

        Raises:
            DataError: If a modality comes in two forms, or is unknown.
        """
        outputs = dict(given or {})
        for key in outputs:
            self.require_encoder(Modality.from_key(key), f"mm_encoder_outputs[{key!r}]", self.connectors.keys())
        known = {Modality.from_key(key): value for key, value in (states or {}).items()}
        for modality in Modality:
            forms = {
                modality.feature_name: features.get(modality.feature_name or ""),
                f"encoder_states[{modality.key!r}]": known.get(modality),
                f"mm_encoder_outputs[{modality.key!r}]": outputs.get(modality.key),
            }
            raw, encoded, _ = forms.values()
            if len(held := [name for name, form in forms.items() if form is not None]) > 1:
                raise DataError(f"Pass {held[0]} or {held[1]}, not both.")
            if raw is not None and len(raw):
                outputs[modality.key] = self.encode(modality, raw)
            elif encoded is not None and len(encoded):
                outputs[modality.key] = self.connect(modality, encoded)
        return outputs

    @can_return_tuple
    @formerly_past_key_values
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        audio_features: Tensor | None = None,
        speech_features: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        mm_encoder_outputs: EncoderOutputs | None = None,
        encoder_states: dict[str, Tensor] | None = None,
        require_media: bool = True,
        **kwargs: Any,
    ) -> UniMoEModelOutput:
        """Merge media into the text and run the language model.

        Args:
            pixel_values, pixel_values_videos, audio_features, speech_features: Units of the whole batch, in order.
            mm_token_type_ids: `Modality` of each token, (B, S). None: read from the placeholder ids.
            mm_encoder_outputs: Results of `encode` by modality key, instead of the raw features.
            encoder_states: Tokens that the encoders gave, (N, tokens, C) by modality key, instead of the raw features.
            require_media: Whether placeholders of a modality without any features are an error. `generate`, which
                counts them before its first step, says False: an assistant drafts from placeholders on purpose.
            The others are those of `UniMoETextModel.forward`.

        Raises:
            DataError: If placeholders and features differ in number, or a model with positions in time and space gets
                media without them.
        """
        require_one(input_ids, inputs_embeds)
        features = {
            "pixel_values": pixel_values,
            "pixel_values_videos": pixel_values_videos,
            "audio_features": audio_features,
            "speech_features": speech_features,
        }
        encoded = self.encode_all(features, mm_encoder_outputs, encoder_states)
        require_positions(self.config, position_ids, encoded)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if encoded or require_media or self.training or mm_token_type_ids is None:  # not in a step of generation
            placeholders = self.placeholders(input_ids, inputs_embeds)
            inputs_embeds = self.merge(inputs_embeds, placeholders, encoded, require_media=require_media)
            mm_token_type_ids = modality_ids(placeholders) if mm_token_type_ids is None else mm_token_type_ids
        output = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            use_cache=use_cache,
            mm_token_type_ids=mm_token_type_ids,
            token_ids=input_ids,
            **{**kwargs, **self.recordings(kwargs), "return_dict": True},
        )
        return with_media(output, encoded)

    def placeholders(self, input_ids: Tensor | None, inputs_embeds: Tensor | None = None) -> dict[Modality, Tensor]:
        """Find each modality's placeholder tokens: bool masks (B, S), from ids or, without them, embeddings."""
        masks: dict[Modality, Tensor] = {}
        for modality in self.config.media:
            token_id = self.config.token_id(modality)
            if input_ids is not None:
                masks[modality] = input_ids.eq(token_id)
            elif inputs_embeds is not None:
                token = self.get_input_embeddings()(torch.tensor(token_id, device=inputs_embeds.device))
                masks[modality] = inputs_embeds.eq(token).all(dim=-1)
        return masks

    def merge(
        self,
        inputs_embeds: Tensor,
        placeholders: dict[Modality, Tensor],
        encoded: EncoderOutputs,
        *,
        require_media: bool = True,
    ) -> Tensor:
        """Put encoded media (tokens, D) in the place of their placeholder tokens in (B, S, D).

        Raises:
            DataError: If placeholders and features of a modality differ in number; see `forward`.
        """
        counted = placeholders if require_media else {m: mask for m, mask in placeholders.items() if m.key in encoded}
        check_counts(counted, encoded)
        for modality, mask in placeholders.items():
            if not (units := units_of(encoded, modality)):
                if self.training:
                    key = modality.encoder_key
                    inputs_embeds = inputs_embeds + zero_length_pass(
                        self.connectors[key], self.config.encoder_config(key)
                    )
                continue
            features = torch.cat(units).to(inputs_embeds)
            inputs_embeds = inputs_embeds.masked_scatter(mask[..., None], features)
        return inputs_embeds


class UniMoEForConditionalGeneration(MultimodalGeneration, LanguageHead):
    """Answers in text to images, video, audio, speech and text. See `UniMoEProcessor` for its inputs."""

    config_class = UniMoEConfig
    input_modalities = INPUT_MODALITIES
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: UniMoEConfig) -> None:
        super().__init__(config)
        self.model = UniMoEModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()
        # A generated placeholder would be a place without a medium.
        self.generation_config.suppress_tokens = [config.token_id(modality) for modality in config.media] or None

    @can_return_tuple
    @formerly_past_key_values
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        audio_features: Tensor | None = None,
        speech_features: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        mm_encoder_outputs: EncoderOutputs | None = None,
        encoder_states: dict[str, Tensor] | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        require_media: bool = True,
        **kwargs: Any,
    ) -> UniMoEOutput:
        """Predict the next token at every position. Arguments as in `UniMoEModel` and `UniMoEForCausalLM`."""
        if mm_token_type_ids is None:
            mm_token_type_ids = modality_ids(self.model.placeholders(input_ids, inputs_embeds))
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "cache": cache,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
            "pixel_values": pixel_values,
            "pixel_values_videos": pixel_values_videos,
            "audio_features": audio_features,
            "speech_features": speech_features,
            "mm_token_type_ids": mm_token_type_ids,
            "mm_encoder_outputs": mm_encoder_outputs,
            "encoder_states": encoder_states,
            "require_media": require_media,
        }
        return self.predict(
            text_config=self.config.text_config,
            labels=labels,
            output_router_logits=output_router_logits,
            logits_to_keep=logits_to_keep,
            inputs=inputs,
            **kwargs,
        )

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

    def parts(self) -> dict[str, list[str]]:
        """Name the parameters of each part that can be trained or frozen; a parameter may stand in several parts.

        Those that change nothing (`unread_parameters`) stand in none.
        """
        unread = self.unread_parameters()
        return group_by_part(name for name, _ in self.named_parameters() if name not in unread)

    def unread_parameters(self) -> set[str]:
        """Name the parameters that change nothing of what the model gives, such as the pooler of a ViT."""
        return {f"model.{name}" for name in unread_parameters(self.config)}


__all__ = ["UniMoEForConditionalGeneration", "UniMoEModel"]
