"""Layers that learn what 8 bits will do to them: quantisation-aware training (Jacob et al., CVPR 2018,
arXiv 1712.05877).

Weights are rounded to int8, symmetric, with a scale for each output channel; inputs to uint8, with one scale for each
map, from a moving average of the range that training has seen. Gradients pass as if nothing were rounded, where nothing
is cut off. The batch norm behind a convolution is not part of it: folding it in scales each output channel, and the
rounded weights with it, so that what is exported rounds to the same integers.

The first and the last layers stay as they are, and so do layers that are no plain convolution or linear map.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM = 0.05  # of the range, which then looks back over some twenty passes
PROBE = (2, 4, 6)  # batch, and height and width in strides
LEVELS = 255
EPSILON = torch.finfo(torch.float32).eps


class Rounded(nn.Module):
    """One layer's inputs and weights, as 8 bits hold them."""

    low: Tensor
    high: Tensor

    def watch(self) -> None:
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def input(self, x: Tensor) -> Tensor:
        if self.training:
            self._see(x.detach())
        low, high = self.low.clamp(max=0), self.high.clamp(min=0)
        scale = ((high - low) / LEVELS).clamp(min=EPSILON)
        zero = (-low / scale).round().clamp(0, LEVELS)
        rounded: Tensor = torch.fake_quantize_per_tensor_affine(x.float(), scale, zero.int(), 0, LEVELS)
        return rounded

    @torch.no_grad()
    def _see(self, x: Tensor) -> None:
        low, high = x.float().aminmax()
        first = (self.low == 0) & (self.high == 0)
        self.low.copy_(torch.where(first, low, self.low.lerp(low, MOMENTUM)))
        self.high.copy_(torch.where(first, high, self.high.lerp(high, MOMENTUM)))

    @staticmethod
    def weights(w: Tensor, axis: int) -> Tensor:
        largest = w.detach().abs().amax(dim=[d for d in range(w.ndim) if d != axis])
        scale = (largest / 127).clamp(min=EPSILON).float()
        zero = torch.zeros_like(scale).int()
        rounded: Tensor = torch.fake_quantize_per_channel_affine(w.float(), scale, zero, axis, -127, 127)
        return rounded


class RoundedConv2d(Rounded, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(self.input(x), self.weights(self.weight, 0), self.bias)
        return out


class RoundedLinear(Rounded, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.input(x), self.weights(self.weight, 0), self.bias)


WITH_WEIGHTS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
ROUNDED: dict[type[nn.Module], type[Rounded]] = {nn.Conv2d: RoundedConv2d, nn.Linear: RoundedLinear}


def quantise(model: nn.Module, stride: int) -> None:
    """In place: parameters keep their names, and each layer gains the two ends of its input's range."""
    between = inner(model, stride)
    for name, layer in model.named_modules():
        if type(layer) in ROUNDED and name in between:
            layer.__class__ = ROUNDED[type(layer)]
            layer.watch()


def ranges(model: nn.Module) -> dict[str, tuple[float, float]]:
    """The low and the high end of the input of each rounded layer, by the layer's name."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, Rounded)}
    return {name: (min(0.0, m.low.item()), max(0.0, m.high.item())) for name, m in found.items()}


def inner(model: nn.Module, stride: int) -> list[str]:
    """Names of the layers whose weights meet the image and the outputs only through others: by the graph of gradients
    of one pass, from the outputs to the image."""
    names = {id(m.weight): name for name, m in model.named_modules() if isinstance(m, WITH_WEIGHTS)}
    todo = [(node, True) for node in _graph(model, stride)]
    seen, layers, ends = set[object](), set[str](), set[str]()
    while todo:
        node, at_the_end = todo.pop()
        if (node, at_the_end) in seen:
            continue
        seen.add((node, at_the_end))
        inputs = [n for n, _ in node.next_functions if n is not None]
        own = {names[key] for n in inputs if (key := _weight(n)) in names}
        before = [n for n in inputs if _weight(n) is None]
        layers |= own
        if at_the_end or not before:
            ends |= own
        todo += [(n, at_the_end and not own) for n in before]
    return sorted(layers - ends)


def _graph(model: nn.Module, stride: int) -> list[Any]:
    """Where the outputs' gradients begin; the model is left as it was."""
    modes = [(module, module.training) for module in model.modules()]
    batch, *cells = PROBE
    try:
        with torch.enable_grad():
            outputs = model.eval()(torch.zeros(batch, 3, *(stride * n for n in cells)))
    finally:
        for module, training in modes:
            module.training = training
    return [value.grad_fn for value in outputs.values() if value.grad_fn is not None]


def _weight(node: Any) -> int | None:
    """Which parameter stands at this leaf, perhaps transposed."""
    if hasattr(node, "variable"):
        return id(node.variable)
    turned = type(node).__name__ in ("TBackward0", "PermuteBackward0", "TransposeBackward0")
    return next((_weight(n) for n, _ in node.next_functions if n is not None), None) if turned else None
