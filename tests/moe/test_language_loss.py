"""The token-balanced loss: what a text token weighs does not depend on how many image tokens stand beside it."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.loss.loss_utils import ForCausalLMLoss

from unimoe.moe import token_balanced_loss

V = 11


def batch(length: int, labelled: int) -> tuple[Tensor, Tensor]:
    """One sequence whose last tokens have labels; those before them are of an image."""
    logits = torch.randn(1, 64, V, generator=torch.Generator().manual_seed(0))[:, -length:].clone()
    labels = torch.randint(0, V, (1, 64), generator=torch.Generator().manual_seed(1))[:, -length:].clone()
    labels[:, :-labelled] = -100
    return logits.requires_grad_(), labels


def gradient_of_text(loss: Tensor, logits: Tensor, labelled: int) -> Tensor:
    return torch.autograd.grad(loss, logits)[0][:, -labelled - 1 : -1]


def test_the_loss_is_the_sum_over_labelled_tokens_by_all_tokens() -> None:
    logits, labels = batch(12, 5)
    logits = logits.detach()
    total = sum(
        float(cross_entropy(logits[0, place - 1].double(), labels[0, place]))
        for place in range(1, 12)
        if labels[0, place] >= 0
    )
    assert token_balanced_loss(logits, labels) == pytest.approx(total / 12)


@pytest.mark.parametrize("images", [0, 7, 40])
def test_for_a_fixed_budget_loss_and_gradient_do_not_depend_on_the_number_of_image_tokens(images: int) -> None:
    logits, labels = batch(6, 5)
    more_logits, more_labels = batch(6 + images, 5)
    expected = token_balanced_loss(logits, labels, token_budget=64)
    actual = token_balanced_loss(more_logits, more_labels, token_budget=64)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        gradient_of_text(actual, more_logits, 5), gradient_of_text(expected, logits, 5), rtol=0, atol=0
    )


def test_in_full_batches_a_text_token_weighs_the_same_whatever_the_share_of_images() -> None:
    gradients = {}
    for name, loss in {"balanced": token_balanced_loss, "mean": lambda *x: ForCausalLMLoss(*x, V)}.items():
        for labelled in (3, 12):  # of 24 tokens; the last three are the same
            logits, labels = batch(24, labelled)
            gradients[name, labelled] = gradient_of_text(loss(logits, labels), logits, 3)
    torch.testing.assert_close(gradients["balanced", 3], gradients["balanced", 12])
    torch.testing.assert_close(gradients["mean", 3], 4 * gradients["mean", 12])  # what the usual mean does


def test_padding_is_not_counted() -> None:
    logits, labels = batch(12, 5)
    attention = torch.ones(1, 12)
    attention[:, :4] = 0
    expected = token_balanced_loss(logits[:, 4:], labels[:, 4:])
    torch.testing.assert_close(token_balanced_loss(logits, labels, attention_mask=attention), expected)


def test_parts_add_up_to_the_whole_batch() -> None:
    logits, labels = batch(12, 5)
    logits, labels = logits.view(3, 4, V), labels.view(3, 4)
    parts = [
        token_balanced_loss(logits[i : i + 1], labels[i : i + 1], token_budget=torch.tensor(12)) for i in range(3)
    ]
    torch.testing.assert_close(sum(parts), token_balanced_loss(logits, labels))


def test_a_batch_without_labels_costs_nothing() -> None:
    logits, labels = batch(12, 5)
    assert token_balanced_loss(logits, torch.full_like(labels, -100)) == 0
