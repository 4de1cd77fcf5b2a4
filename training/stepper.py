"""Training steps that do not wait for the device.

On a GPU the results of a step are read while the next one runs. In a run with one process, the kernels of a step are
captured in a CUDA graph after two steps: replaying it starts hundreds of kernels at once; starting each from Python
takes longer than small models compute.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.distributed import Process
from training.progress import Totals
from training.state import State
from training.steps import Outcome
from utils.errors import ProjectError, one_line
from utils.metrics import image_metrics

_STEPS_BEFORE_CAPTURE = 2  # they choose algorithms, compile kernels and make the moments of Adam


Metrics = Callable[[Tensor, Tensor], Mapping[str, Tensor]]


def sum_metrics(outcome: Outcome, x: Tensor, process: Process, metrics: Metrics = image_metrics) -> Tensor:
    """Return the sums of the metrics over a batch of all processes: float64, in the order of `Totals`.

    Args:
        outcome: what the batch of this process gave.
        x: (N, C, H, W) in [0, 1], the images of this process; N may be 0.
        process: this process.
        metrics: maps (x_hat, x) to one value per image for each name of `Totals` that it measures.
    """
    nothing = torch.zeros((), dtype=torch.float64, device=x.device)
    sums = {}
    if len(x):
        sums = {name: values.sum() for name, values in metrics(outcome.x_hat, x).items()}
        means = {"loss": outcome.loss, "bpppc": outcome.bpppc, "aux_loss": outcome.aux_loss}
        sums |= {name: mean.double() * len(x) for name, mean in means.items()}
        sums["images"] = torch.full_like(nothing, len(x))
    return process.sum(torch.stack([sums.get(name, nothing) for name in Totals._fields]))


class _Result(NamedTuple):
    """The result of a step on its way to the host; `event` is None if it has arrived."""

    values: Tensor
    event: torch.cuda.Event | None


class _Graph(NamedTuple):
    """A captured step and the tensor that it writes its results to."""

    graph: torch.cuda.CUDAGraph
    output: Tensor


class Stepper:
    """Take the training steps of a run.

    Args:
        state: weights, optimizer and scale of the loss, which the steps change.
        criterion: the loss.
        process: this process.
        max_norm: largest norm of the gradient; 0 does not clip.
        diverged: makes an error from the name and value of a loss or gradient that is not finite.
        metrics: see `sum_metrics`.
    """

    def __init__(
        self,
        state: State,
        criterion: nn.Module,
        process: Process,
        max_norm: float,
        diverged: Callable[[str, float], ProjectError],
        metrics: Metrics = image_metrics,
    ) -> None:
        self.state, self.criterion, self.process, self.max_norm = state, criterion, process, max_norm
        self._diverged, self._metrics = diverged, metrics
        self._is_gpu = process.device.type == "cuda"
        self._results: deque[_Result] = deque()
        self._may_capture = self._is_gpu and process.world_size == 1
        self._x: Tensor | None = None
        self._steps = 0  # on batches of the shape of `_x`
        self._graph: _Graph | None = None

    def step(self, x: Tensor, weight: float) -> list[Totals]:
        """Take a step on a batch.

        Args:
            x: (N, C, H, W) in [0, 1], the images of this process; N may be 0.
            weight: factor of the loss, see `training.data.Batch`.

        Returns:
            The sums over the batch of each step whose results have arrived: on a CPU of this step, on a GPU of
            the step before.

        Raises:
            ProjectError: loss or gradient of such a step is not finite; it did not change the weights.
        """
        self._send(self._run(x, weight))
        return self._receive(keep=1 if self._is_gpu else 0)

    def finish(self) -> list[Totals]:
        """Wait for the steps that are still running, and return what `step` returns."""
        return self._receive(keep=0)

    def _run(self, x: Tensor, weight: float) -> Tensor:
        self.state.optimizers.send_learning_rate()
        if not self._may_capture:
            return self._compute(x, weight)
        if self._x is None:
            self._x = torch.empty_like(x)
        if x.shape != self._x.shape:  # a shorter last batch
            return self._compute(x, weight)
        self._x.copy_(x)
        if self._graph is None and self._steps == _STEPS_BEFORE_CAPTURE:
            self._graph = self._capture(self._x, weight)
        if self._graph is None:
            self._steps += 1
            return self._compute(self._x, weight)
        self._graph.graph.replay()
        return self._graph.output

    def _compute(self, x: Tensor, weight: float) -> Tensor:
        """Take a step and return `Totals`, the norm of the gradient and the scale of the loss, in float64."""
        state = self.state
        state.optimizers.zero_grad()
        outcome = state.backward(self.criterion, x, weight)
        sums = sum_metrics(outcome, x, self.process, self._metrics)
        norm = state.optimizers.clip_gradients(self.max_norm)
        state.optimizers.step(sums[1].isfinite() & norm.isfinite())
        return torch.cat([sums, torch.stack([norm.double(), state.optimizers.scale])])

    def _capture(self, x: Tensor, weight: float) -> _Graph | None:
        """Capture a step on `x`; if it waits for the device, return None and never try again."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # the graph has memory of its own
        graph = torch.cuda.CUDAGraph()
        try:
            # Threads that pin memory do not disturb the capture.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                output = self._compute(x, weight)
        except RuntimeError as error:
            self._may_capture = False
            print(f"training without a CUDA graph, which is slower: {one_line(error)}", file=sys.stderr)
            return None
        return _Graph(graph, output)

    def _send(self, values: Tensor) -> None:
        if not self._is_gpu:
            self._results.append(_Result(values, None))
            return
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._results.append(_Result(host, event))

    def _receive(self, keep: int) -> list[Totals]:
        found = []
        while len(self._results) > keep:
            values, event = self._results.popleft()
            if event:
                event.synchronize()
            *sums, norm, scale = values.tolist()
            self._check(Totals(*sums), norm, scale)
            found.append(Totals(*sums))
        return found

    def _check(self, totals: Totals, norm: float, scale: float) -> None:
        loss = totals.loss / totals.images
        if not math.isfinite(loss):
            raise self._diverged("training loss", loss)
        is_fp16 = self.state.optimizers.scaler.is_enabled()
        if (is_fp16 and scale < 1) or (not is_fp16 and not math.isfinite(norm)):
            raise self._diverged("norm of the gradient", norm)
