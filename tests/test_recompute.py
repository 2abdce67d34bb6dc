"""Activation checkpointing changes memory, not numbers: gradients, running statistics and masks are the same."""

import pytest
import torch

from models import build_model
from tests.golden import fill_, normal


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize(("model", "size"), [("spiking_resnet18", 32), ("spiking_vgg11_bn", 32), ("snn5", 32)])
def test_checkpointing_counts_once(model, size, backend):
    x_seq = normal("input", (2, 3, 2, size, size)).float().abs()
    results = []
    for checkpoint in (False, True):
        net = fill_(build_model(model, "CLIF", in_channels=2, input_size=size, drop_rate=0.2, backend=backend).float())
        net.train()
        net.checkpoint = checkpoint
        torch.manual_seed(1)
        logits = net(x_seq)
        logits.square().sum().backward()
        results.append((logits.detach(), {name: p.grad for name, p in net.named_parameters()}, net.state_dict()))
    (logits, grads, state), (logits_again, grads_again, state_again) = results
    assert torch.equal(logits, logits_again)
    for name, grad in grads.items():
        torch.testing.assert_close(grads_again[name], grad, rtol=1e-5, atol=1e-6 * grad.abs().max().item() + 1e-12)
    for name, value in state.items():
        assert torch.equal(state_again[name], value), name


def test_checkpointing_keeps_less_for_the_backward_pass():
    def kept(checkpoint):
        net = build_model("snn5", "CLIF", backend="torch").train()
        net.checkpoint = checkpoint
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            net(torch.rand(4, 2, 3, 32, 32))
        return sum(sizes)

    assert kept(True) < kept(False) / 2
