"""Counts bytes and operations of tensors that do not exist: what torch would allocate, under `FakeTensorMode`.

Every operation passes by here; what it makes lives until the last tensor with its storage is gone.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_aten = torch.ops.aten

ACTIVATIONS = "activations"
"""Kind of all tensors that nobody has named."""


class MemoryTracker(TorchDispatchMode):
    """Follow the bytes of all tensors that are made inside, by kind, up to their peak; and count operations.

    Meant to be entered within `FakeTensorMode`; real tensors are counted alike. What a kernel allocates and frees
    within one operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = {}
        self.peak = 0
        self.at_peak: dict[str, int] = {}
        self.flops = 0
        self._held: dict[int, tuple[str, int]] = {}  # storage -> kind and size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it makes."""
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # two calls of three ask for it
        if func is _aten._grouped_mm.default and isinstance(args[0], FakeTensor):  # torch knows bfloat16 alone
            output = grouped_product(*args, **kwargs)
        else:
            output = func(*args, **kwargs)
        self.flops += operations(func, args, kwargs, output)
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self.hold(leaf)
        return output

    def hold(self, tensor: Tensor, kind: str | None = None) -> None:
        """Count a tensor if it is new, and say of what kind it is, such as `weights`."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        known, _ = self._held.get(key, (None, 0))
        if known is None:
            weakref.finalize(storage, self._release, key)
        elif kind is None or kind == known:
            return
        else:
            self._release(key)
        kind = kind or ACTIVATIONS
        self._held[key] = (kind, size)
        self.bytes[kind] = self.bytes.get(kind, 0) + size
        self._note_peak()

    def begin(self) -> None:
        """Look for a peak, and count operations, from here on."""
        self.peak, self.at_peak, self.flops = 0, {}, 0
        self._note_peak()

    def _release(self, key: int) -> None:
        kind, size = self._held.pop(key)
        self.bytes[kind] -= size

    def _note_peak(self) -> None:
        if (total := sum(self.bytes.values())) > self.peak:
            self.peak, self.at_peak = total, {kind: size for kind, size in self.bytes.items() if size}


def grouped_product(
    left: Tensor, right: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: Any = None
) -> Tensor:
    """Say what `torch._grouped_mm` returns for G groups of rows, or of columns that are summed over, empty.

    Args:
        left: (T, K) for a right side of (G, K, N), which give (T, N); or (M, T) for (T, N), which give (G, M, N).
        right: (G, K, N) or (T, N).
        offs: Ends of the groups, (G,).
        bias: Takes no part.
        out_dtype: None: that of `left`.
    """
    if right.dim() == 3:
        return left.new_empty((left.shape[0], right.shape[-1]), dtype=out_dtype)
    groups = 0 if offs is None else len(offs)
    return left.new_empty((groups, left.shape[0], right.shape[1]), dtype=out_dtype)


def operations(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    """Floating-point operations of a call, a multiply-add as two; only products, convolutions and attention count.

    As torch's `FlopCounterMode`, which knows neither grouped products nor attention on CPUs.
    """
    packet = func.overloadpacket
    if packet is _aten._grouped_mm:  # each row of the larger side meets one group
        return 2 * args[0].numel() * args[1].shape[-1]
    if packet is _aten._scaled_dot_product_flash_attention_for_cpu:
        return sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
    if packet is _aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4]))
    count = flop_registry.get(packet)
    return count(*args, **kwargs, out_val=output) if count else 0


__all__ = ["ACTIVATIONS", "MemoryTracker", "grouped_product", "operations"]
