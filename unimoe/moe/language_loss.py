"""The language loss when many tokens of a batch, as those of images, have no label."""

import torch
from torch import Tensor
from transformers.loss.loss_utils import ForCausalLMLoss


def token_balanced_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    attention_mask: Tensor | None = None,
    token_budget: Tensor | float | None = None,
) -> Tensor:
    """Divide the summed cross-entropy of the labelled tokens by all tokens, labelled or not.

    The usual mean over labelled tokens gives a text token the more weight, the more of a batch's tokens are images.
    Here every labelled token weighs 1/N, with N tokens in the batch. If N is a fixed budget, the loss does not depend
    on the number of image tokens at all; counted in the batch, it does not as long as batches are full.

    Named after the loss that the technical report of ERNIE 4.5 describes in words; the formula is read from Baidu's
    public training code, whose N is the batch size times the maximum length. That code takes the gradient of this
    loss, but reports the mean over labelled tokens.

    Args:
        logits: (B, S, V).
        labels: Tokens as in `input_ids`, not shifted; -100 has no label, (B, S).
        attention_mask: 1 for real tokens, (B, S). None: all tokens count.
        token_budget: N: a constant, or the tokens of all accumulated batches and processes. None: this batch's real
            tokens.

    Returns:
        Scalar, nats, float32.
    """
    if token_budget is None:
        token_budget = labels.numel() if attention_mask is None else attention_mask.sum()
    budget = torch.as_tensor(token_budget, device=logits.device)
    return ForCausalLMLoss(logits, labels, logits.shape[-1], num_items_in_batch=budget)
