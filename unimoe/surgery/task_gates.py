"""Task gates: an embedding of each task, added to the router logits of every sparse layer, as a file beside a model.

Like the gates of MMoE (Ma et al. 2018), over the experts that there are; of a gate, the bias alone is the task's.
Embeddings are 0 at first, and the model is then what it was, to the bit.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import UniMoEError
from ..files.tensors import open_tensors
from ..moe.routers import RouterOutput, RoutingContext, TopKRouter
from .mixture import sparse_layers

FILE_NAME = "task_gates.safetensors"


class TaskGates(nn.Module):
    """Embeddings of tasks for the routers of a model, which itself stays as it is.

    Args:
        model: A mixture of this package whose routers take the K best (`router_type: top_k`, without what routers do
            besides).
        num_tasks: How many.

    Raises:
        UniMoEError: If it has another router.
    """

    def __init__(self, model: nn.Module, num_tasks: int) -> None:
        super().__init__()
        layers = sparse_layers(model)
        if strangers := [layer.name for layer in layers if type(layer.router) is not TopKRouter]:
            problem = "its router takes no bias of a task."
            raise UniMoEError(strangers[0], problem, "Use a model of this package with router_type 'top_k' alone.")
        self._routers: dict[str, TopKRouter] = {str(layer.index): layer.router for layer in layers}
        self.biases = nn.ParameterDict(
            {
                index: nn.Parameter(torch.zeros(num_tasks, router.num_targets, device=router.weight.device))
                for index, router in self._routers.items()
            }
        )

    @contextmanager
    def task(self, number: int) -> Iterator[None]:
        """Route by a task in the block.

        Args:
            number: Of the task, from 0.
        """
        with ExitStack() as stack:
            for index, router in self._routers.items():
                hook = _add(self.biases[index][number])
                stack.callback(router.register_forward_hook(hook, prepend=True).remove)
            yield

    def save(self, folder: str | Path) -> None:
        """Write the embeddings into a folder, beside the model."""
        save_file(self.biases.state_dict(), Path(folder) / FILE_NAME)

    @classmethod
    def load(cls, model: nn.Module, folder: str | Path) -> "TaskGates":
        """Read the embeddings of a folder.

        Args:
            model: For which they were made.
            folder: Where they lie.

        Raises:
            CheckpointError: If there are none.
            UniMoEError: If they are those of another model.
        """
        found = open_tensors(Path(folder), FILE_NAME)
        gates = cls(model, len(next(iter(found.values()))))
        try:
            gates.biases.load_state_dict(found)
        except RuntimeError as error:
            problem = f"it is of another model ({' '.join(str(error).split())})."
            raise UniMoEError(str(Path(folder) / FILE_NAME), problem) from error
        return gates


def _add(bias: Tensor) -> Callable[[TopKRouter, tuple[Tensor, RoutingContext], RouterOutput], RouterOutput]:
    """Make the hook that lets a router choose anew, with a bias (E+N,) on its logits."""

    def choose(router: TopKRouter, given: tuple[Tensor, RoutingContext], output: RouterOutput) -> RouterOutput:
        hidden_states, context = given
        logits = output.router_logits + bias.to(output.router_logits.dtype)
        scores = router.normalise(logits)
        targets, selected = router.select(scores, logits, context)
        return router.output(hidden_states.dtype, logits, scores, targets, router.weigh(selected, targets))

    return choose


__all__ = ["FILE_NAME", "TaskGates"]
