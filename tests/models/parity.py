"""What it takes to hold one network against another of equal weights."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipelines.models.contract import Classes

Network = TypeVar("Network", bound=nn.Module)


def classes_of(count: int) -> Classes:
    return Classes(things=tuple(range(1, count)), stuff=(0,))


def on_meta(build: Callable[..., Network], **options) -> Network:
    """A network without values: to count, or to be filled."""
    with torch.device("meta"):
        return build(**options)


def worn(build: Callable[..., Network], **options) -> Network:
    """A network as after some training, in evaluation: fresh norms, and branches that begin at zero, hide what they
    do."""
    torch.manual_seed(0)
    model = on_meta(build, **options).to_empty(device="cpu")
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            nn.init.uniform_(layer.weight, 0.5, 1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
            nn.init.normal_(layer.running_mean, std=0.1)
    return model.eval()


def pour(ours: nn.Module, theirs: nn.Module) -> None:
    """Our weights into layers of the same order and shapes, whatever their names; these may be without values."""
    values = dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))
    theirs.load_state_dict(values, assign=True)


def pour_image_pooling(ours: nn.Module, theirs: nn.Module) -> None:
    """Our convolution with a bias into one without, whose norm (fresh: a scale that an epsilon leaves) has the bias."""
    conv, norm = (next(m for m in theirs.modules() if isinstance(m, kind)) for kind in (nn.Conv2d, nn.BatchNorm2d))
    with torch.no_grad():
        conv.weight.copy_(ours.mix.weight * (1 + norm.eps) ** 0.5)
        norm.bias.copy_(ours.mix.bias)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-4 of the largest value: some hundred layers add up in other orders where they are laid out otherwise."""
    assert ours.std() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())
