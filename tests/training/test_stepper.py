"""Steps never wait for the device: tested on the meta device, which holds no data, and on a GPU."""

import argparse
import copy
from contextlib import nullcontext

import pytest
import torch
from torch.amp import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from models import models
from training.distributed import Process
from training.losses import RateDistortion, losses
from training.progress import Totals
from training.state import State
from training.stepper import Stepper, sum_metrics
from training.steps import loss_and_gradients
from utils.environment import configure_backends
from utils.errors import ProjectError

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class NoHost(TorchDispatchMode):
    """Refuse operations that copy between host and device, which a CUDA graph cannot capture."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        assert len(devices) < 2, f"{function} takes tensors of {devices}"
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and "cpu" in devices:
            assert out.device.type == "cpu", f"{function} copies to the device"
        return out


@pytest.mark.parametrize("loss", losses)
@pytest.mark.parametrize("name", ["cae1d", "cae1da", "sscnet_1bpppc", "cae3d_1bpppc"])
def test_no_step_copies_between_host_and_device(monkeypatch, name, loss):
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # unknown to the meta device
    device = torch.device("meta")
    model, criterion = models[name](src_channels=24).to(device).train(), losses[loss]()
    x = torch.rand(2, 24, 16, 16, device=device)

    def compute():
        outcome = loss_and_gradients(model, model, criterion, x, 1.0, GradScaler("cpu", enabled=False))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        return sum_metrics(outcome, x, Process(device))

    compute()  # windows and folded taps are made once
    with NoHost():
        assert compute().shape == (len(Totals._fields),)


@pytest.mark.parametrize("name", ["ours_factorized_s0", "ours_hyperprior_s2", "ours_klt", "hycot_1bpppc"])
def test_no_step_for_rate_copies_between_host_and_device(monkeypatch, name):
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    device = torch.device("meta")
    model = models[name](src_channels=24)
    if not model.has_entropy_model:
        model.attach_entropy_model()
    model.to(device).train()
    x, criterion = torch.rand(2, 24, 16, 16, device=device), RateDistortion(losses["mse"](), 1.0)

    def compute():
        outcome = loss_and_gradients(model, model, criterion, x, 1.0, GradScaler("cpu", enabled=False))
        aux_loss = model.aux_loss()
        aux_loss.backward()
        return sum_metrics(outcome._replace(aux_loss=aux_loss.detach()), x, Process(device))

    compute()
    with NoHost():
        assert compute().shape == (len(Totals._fields),)


def make_stepper(device, name="cae1d", **changes):
    args = {"learning_rate": 1e-3, "precision": "fp32", "compile": False, "scheduler": "none", **changes}
    torch.manual_seed(0)
    state = State(argparse.Namespace(**args), models[name](src_channels=24), Process(device))
    state.model.train()

    def diverged(name, value):
        return ProjectError(f"{name}: {value}")

    return Stepper(state, losses["mse"](), Process(device), 1.0, diverged), state


def test_a_cpu_gives_its_results_at_once():
    stepper, _ = make_stepper(torch.device("cpu"))
    (batch,) = stepper.step(torch.rand(2, 24, 4, 4), 1.0)
    assert batch.images == 2 and 0 < batch.loss / 2 == pytest.approx(batch.mse / 2, rel=1e-5)
    assert stepper.finish() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(value):
    stepper, state = make_stepper(torch.device("cpu"))
    stepper.step(torch.rand(1, 24, 4, 4), 1.0)
    before = copy.deepcopy((state.model.state_dict(), state.optimizers.optimizer.state_dict()["state"]))
    with pytest.raises(ProjectError, match="training loss"):
        stepper.step(torch.full((1, 24, 4, 4), value), 1.0)
    after = (state.model.state_dict(), state.optimizers.optimizer.state_dict()["state"])
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@needs_gpu
@pytest.mark.parametrize("name", ["cae1d", "sscnet_1bpppc", "cae3d_1bpppc"])
@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"precision": "fp16"}, {"compile": True}])
def test_a_graph_does_what_single_steps_do(name, changes):
    """Losses and weights agree, also after a short batch and a changed learning rate."""
    configure_backends(deterministic=False, tf32=False)
    device, runs = torch.device("cuda", 0), []
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(2, 24, 16, 16, generator=generator).to(device) for _ in range(7)]
    for captures in (False, True):
        stepper, state = make_stepper(device, name, **changes)
        stepper._may_capture = captures
        found = []
        for index, x in enumerate(batches):
            state.optimizers.learning_rate = 1e-3 if index < 5 else 1e-4
            found += stepper.step(x[:1] if index == 4 else x, 1.0)
        found += stepper.finish()
        assert (stepper._graph is not None) == captures
        runs.append((torch.tensor(found), [parameter.detach().clone() for parameter in state.model.parameters()]))
    (losses_one, weights_one), (losses_graph, weights_graph) = runs
    torch.testing.assert_close(losses_graph, losses_one, rtol=2e-2, atol=1e-6)
    for own, other in zip(weights_graph, weights_one, strict=True):
        torch.testing.assert_close(own, other, rtol=2e-2, atol=2e-3)


@needs_gpu
def test_a_gpu_reports_a_step_later_and_keeps_its_weights():
    device = torch.device("cuda", 0)
    stepper, state = make_stepper(device)
    good = torch.rand(1, 24, 8, 8, device=device)
    assert stepper.step(good, 1.0) == []
    assert len(stepper.step(good, 1.0)) == 1
    for _ in range(3):
        stepper.step(good, 1.0)
    stepper.finish()
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    stepper.step(good * float("nan"), 1.0)
    with pytest.raises(ProjectError, match="training loss"):
        stepper.finish()
    for own, other in zip(state.model.parameters(), before, strict=True):
        assert torch.equal(own, other)
