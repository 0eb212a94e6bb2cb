"""Training steps that a GPU replays as CUDA graphs: a step costs the processor one launch instead of hundreds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from .training_args import UniSRecTrainingArguments


logger = logging.get_logger(__name__)

# Takes the tensors of a batch; returns the loss, and parts of it by name.
LossFunction = Callable[[dict[str, torch.Tensor]], tuple[torch.Tensor, dict[str, torch.Tensor]]]
MAX_GRAPHS = 64  # each takes a fraction of a second and some memory; batches of further shapes run without


def can_replay(args: UniSRecTrainingArguments) -> bool:
    """Returns whether steps are replayed: where nothing in them but kernels of one device depends on the step."""
    return (
        args.static_batches
        and args.device.type == "cuda"
        and args.world_size == 1
        and not (args.fp16 or args.torch_compile or args.gradient_checkpointing)
        and getattr(args, "cache_chunk_size", None) is None  # sizes of chunks differ
    )


class _Graph:
    """Recorded forward and backward pass over batches of one set of shapes."""

    def __init__(
        self,
        compute: LossFunction,
        weights: Sequence[nn.Parameter],
        inputs: Mapping[str, torch.Tensor],
        pool: tuple[int, int],
    ):
        self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, such as the one that pins the memory of batches, go on meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self.loss, self.parts = compute(dict(self._inputs))
            self.gradients = torch.autograd.grad(self.loss, weights, allow_unused=True)

    def replay(self, inputs: Mapping[str, torch.Tensor]) -> None:
        names = list(self._inputs)
        torch._foreach_copy_([self._inputs[name] for name in names], [inputs[name] for name in names])
        self._graph.replay()


class StepGraphs:
    r"""
    Computes loss and gradients of training steps, for each set of shapes first as usual, then recorded, then replayed.

    A replayed step does what the recorded one did, with the numbers of its own batch and random draws that continue those of
    the steps before. So `compute` must not depend on anything else that changes between steps, nor wait for the device.

    Args:
        compute (`Callable`): Maps the tensors of a batch to the loss, and to a dict of its parts to log.
        model (`nn.Module`): The model, whose trainable weights get the gradients.
    """

    def __init__(self, compute: LossFunction, model: nn.Module):
        self._compute = compute
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._graphs: dict[tuple, _Graph | None] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def __call__(self, batch: dict[str, Any], accumulated: int = 1) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        r"""
        Adds the gradients of a batch, divided by `accumulated`, to those of the weights.

        Args:
            batch (`dict[str, Any]`): The batch; only its tensors are passed on.
            accumulated (`int`, *optional*, defaults to 1): Number of batches whose gradients make one step.

        Returns:
            `tuple`: The loss, and a dict of its parts. They are overwritten by the next call.
        """
        inputs = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        key = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in sorted(inputs.items()))
        graph = self._graphs.get(key)
        if graph is None:
            if key not in self._graphs or len(self._graphs) > MAX_GRAPHS:
                self._graphs[key] = None  # libraries make their first calls outside of a recording
                return self._run(inputs, accumulated)
            graph = self._graphs[key] = _Graph(self._compute, self._weights, inputs, self._pool)
            logger.debug(f"recorded a training step of shapes {key}")
        graph.replay(inputs)
        self._add(graph.gradients, accumulated)
        return graph.loss, graph.parts

    def _run(self, inputs: dict[str, torch.Tensor], accumulated: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A step as usual, on a stream of its own, as recordings demand of what precedes them."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss, parts = self._compute(dict(inputs))
            gradients = torch.autograd.grad(loss, self._weights, allow_unused=True)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._add(gradients, accumulated)
        return loss.detach(), parts

    def _add(self, gradients: Sequence[torch.Tensor | None], accumulated: int) -> None:
        for weight, gradient in zip(self._weights, gradients, strict=True):
            if gradient is None:
                continue
            if accumulated > 1:  # the next replay overwrites `gradient`
                gradient = gradient / accumulated
            weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)


__all__ = ["StepGraphs", "can_replay"]
