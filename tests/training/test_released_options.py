"""What released models need works together, with each modality routing: counts, packs, losses, gradients."""

from typing import Any, get_args

import pytest
import torch
from test_packing_training import POSITIONS, SAMPLES, check_packs
from tiny import QFORMER, tiny_config
from tiny_model import save_config
from transformers import AutoModelForMultimodalLM, AutoProcessor

from training.data import Collator
from unimoe import BeatsFeatureExtractor, UniMoEBeatsConfig, UniMoEConfig
from unimoe.configuration.moe import ModalityRouting

WINDOW = {"n_samples": 5400, "num_mel_bins": 16}
ROUTER: dict[str, Any] = {
    "num_experts": 5,
    "num_experts_per_tok": 3,
    "router_type": "top_p",
    "num_null_experts": 1,
    "combine_weights": "near_tie",
    "sparsemixer_epsilon": 0.2,
    "router_aux_loss_coef": 0.1,
}
GROUPS = {
    "isolated": {"text": [0, 1], "image": [2, 3], "speech": [4]},
    "semi_isolated": {"text": [0], "image": [2], "speech": [4]},
}
CONNECTORS = {
    "audio": {
        "type": "blip2_qformer",
        "num_queries": 3,
        "qformer_config": QFORMER,
    },
    "speech": {"type": "qformer", "num_queries": 4, "num_attention_heads": 4, "num_output_layers": 2},
}


def describe(routing: str) -> UniMoEConfig:
    """Every option that released models brought, behind a modality routing."""
    fields = tiny_config(**ROUTER, modality_routing=routing, expert_groups=GROUPS.get(routing)).to_dict()
    beats = UniMoEBeatsConfig(
        patch_embedding_size=16,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        max_length=BeatsFeatureExtractor(**WINDOW).max_length,
        num_mel_bins=16,
        mask_padding=True,
    )
    fields["audio_config"] = {"tower_config": beats.to_dict()}
    fields |= {f"{key}_connector_config": connector for key, connector in CONNECTORS.items()}
    return UniMoEConfig(**{**fields, **POSITIONS["as released"]})


@pytest.fixture(scope="module", params=get_args(ModalityRouting))
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Model and processor as they are when saved and loaded."""
    folder = tmp_path_factory.mktemp("released")
    save_config(folder, describe(request.param), BeatsFeatureExtractor(**WINDOW))
    return AutoModelForMultimodalLM.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def test_what_is_counted_is_what_comes(parts: tuple[Any, Any]) -> None:
    _, processor = parts
    for sample in SAMPLES:
        found = Collator(processor)([sample])["input_ids"]
        assert found.shape[1] == processor.count_tokens(sample.messages), sample.id


def test_packed_rows_have_the_losses_and_gradients_of_a_padded_batch(parts: tuple[Any, Any]) -> None:
    grads = check_packs(*parts)
    assert {name.split(".")[2] for name in grads if name.startswith("model.connectors.")} >= {"audio", "speech"}


def test_each_row_of_a_batch_answers_as_alone(parts: tuple[Any, Any]) -> None:
    model, processor = parts
    batch = Collator(processor)(SAMPLES)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        logits = model(**{name: value for name, value in batch.items() if name != "row_ids"}).logits
        for row, sample in enumerate(SAMPLES):
            alone = {name: value for name, value in Collator(processor)([sample]).items() if name != "row_ids"}
            torch.testing.assert_close(logits[row, real[row]], model(**alone).logits[0], atol=1e-5, rtol=1e-4)
