"""How the experts of an upcycled layer begin: as copies of a feed-forward, whole or in slices, some of it drawn anew.

E experts, K experts per token, G slices of a copy.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """How experts begin as a dense feed-forward. Without arguments each is a copy; what is asked for adds up.

    Args:
        pieces: Slices (G) of equal width that each copy is cut into, an expert each. E and K count slices; G is a
            factor of their combine weights.
        virtual_groups: The slices of a copy begin with the same router row, so that a token takes all slices of the
            copies that it chooses (virtual groups, NVIDIA 2024, arXiv 2410.07524). Exact, unless the logits of two
            copies tie. False: each slice has a row of its own. Slices add up where a token takes them all and all
            weigh 1, which only a router without a preference gives: not exact.
        drop_ratio: Share of each expert's channels, chosen anew for each, whose gate, up and down weights are drawn
            from normal distributions with the mean and deviation of what they replace (Nakamura et al. 2025,
            Drop-Upcycling, arXiv 2502.19261, section 3). This parts the experts: not exact.
        shared_expert_intermediate_size: So many channels, the first, become a shared expert, which every token passes
            with a weight of 1. The experts begin as the other channels.

    Raises:
        ValueError: If a number is out of its range.
    """

    pieces: int = 1
    virtual_groups: bool = True
    drop_ratio: float = 0.0
    shared_expert_intermediate_size: int = 0

    def __post_init__(self) -> None:
        if self.pieces < 1:
            raise ValueError(f"pieces is {self.pieces}; it is at least 1.")
        if not 0 <= self.drop_ratio <= 1:
            raise ValueError(f"drop_ratio is {self.drop_ratio}; it lies in [0, 1].")
        if (shared := self.shared_expert_intermediate_size) < 0:
            raise ValueError(f"shared_expert_intermediate_size is {shared}; use 0 for none.")

    @property
    def repeats(self) -> int:
        """Neighbouring experts that begin with the same router row."""
        return self.pieces if self.virtual_groups else 1

    def fields(self, width: int, num_experts: int, num_experts_per_tok: int) -> dict[str, Any]:
        """Give the fields of `MoEConfig` that follow.

        Args:
            width: Channels of the feed-forward.
            num_experts: E.
            num_experts_per_tok: K.

        Raises:
            ValueError: If the numbers do not fit each other; the message names both.
        """
        shared = self.shared_expert_intermediate_size
        if shared >= width:
            raise ValueError(
                f"shared_expert_intermediate_size ({shared}) leaves the experts none of the {width} channels."
            )
        divided = {
            f"the {width - shared} channels of a copy": width - shared,
            f"num_experts ({num_experts})": num_experts,
        }
        if self.virtual_groups:
            divided[f"num_experts_per_tok ({num_experts_per_tok})"] = num_experts_per_tok
        for name, number in divided.items():
            if number % self.pieces:
                raise ValueError(f"pieces ({self.pieces}) does not divide {name}.")
        return {
            "moe_intermediate_size": (width - shared) // self.pieces,
            "shared_expert_intermediate_size": shared,
        }


COPIES = Recipe()
"""Each expert is a copy (Komatsuzaki et al. 2022, Sparse Upcycling, arXiv 2212.05055, section 3)."""

__all__ = ["COPIES", "Recipe"]
