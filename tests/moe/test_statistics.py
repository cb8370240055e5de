"""Counts of routing: nothing is lost, padding is not counted, groups are modalities or all real tokens."""

import pytest
import torch
from routings import B, E, K, S, T, make_record, random_modalities

from unimoe.moe import count_routing, router_load, token_groups


def test_counts_conserve_assignments_for_each_modality() -> None:
    ids, attention = random_modalities(5), torch.ones(B, S, dtype=torch.long)
    attention[1, 5:] = 0
    counts = count_routing(make_record().expert_mask, ids, attention)
    assert counts.shape == (2, 5, E) and counts.dtype == torch.int64
    for modality in range(5):
        real = int(((ids == modality) & attention.bool()).sum())
        assert counts[:, modality].sum(-1).tolist() == [K * real] * 2


def test_groups_hold_each_real_token_once() -> None:
    ids, attention = random_modalities(5), torch.ones(B, S)
    attention[0, :2] = 0
    groups = token_groups(ids, attention, per_modality=True)
    assert groups.shape == (T, 5)
    assert torch.equal(groups.sum(1), attention.flatten())
    assert torch.equal(groups.argmax(1)[attention.flatten() > 0], ids.flatten()[attention.flatten() > 0])
    assert torch.equal(token_groups(ids, attention), attention.view(T, 1))


@pytest.mark.parametrize("per_modality", [False, True])
def test_the_load_counts_what_each_group_chose(per_modality: bool) -> None:
    ids, record = random_modalities(5), make_record()
    load = router_load(record.expert_mask, token_groups(ids, per_modality=per_modality))
    counts = count_routing(record.expert_mask, ids)
    assert torch.equal(load.long(), counts if per_modality else counts.sum(1, keepdim=True))


def test_a_lone_process_has_its_own_load_for_the_global_one() -> None:
    record = make_record()
    groups = token_groups(random_modalities())
    assert torch.equal(
        router_load(record.expert_mask, groups, global_batch=True), router_load(record.expert_mask, groups)
    )
