"""Batch norm that a single pixel does not stop, against torch's."""

import torch
from torch import nn

from pipelines.models.norm import SafeBatchNorm


def worn_pair() -> tuple[SafeBatchNorm, nn.BatchNorm2d]:
    torch.manual_seed(0)
    ours, theirs = SafeBatchNorm(4), nn.BatchNorm2d(4)
    for value in (ours.weight, ours.bias, ours.running_var):
        nn.init.uniform_(value, 0.5, 1.5)
    nn.init.normal_(ours.running_mean)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_it_is_batch_norm_wherever_there_are_statistics():
    ours, theirs = worn_pair()
    for shape in [(1, 4, 1, 2), (2, 4, 1, 1), (3, 4, 5, 6)]:
        x = torch.randn(shape)
        assert torch.equal(ours(x), theirs(x))
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))
    one = torch.randn(1, 4, 1, 1)
    assert torch.equal(ours.eval()(one), theirs.eval()(one))


def test_one_value_per_channel_is_normed_by_what_was_seen_before():
    ours, theirs = worn_pair()
    before = [buffer.clone() for buffer in ours.buffers()]
    x = torch.randn(1, 4, 1, 1, requires_grad=True)
    y = ours(x)
    assert torch.equal(y, theirs.eval()(x))
    y.sum().backward()
    assert all(value.grad.isfinite().all() and value.grad.any() for value in (x, *ours.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(before, ours.buffers(), strict=True)), "nothing was learned of it"
