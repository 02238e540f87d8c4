"""Operators that ONNX, or torch's exporter, lacks for images of any size, in terms of those that it has."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from onnxscript import opset20 as op
from torch import Tensor, nn


def scaled(self: Any, other: Any) -> Any:
    """`aten::mul.Scalar` by a number that is computed from the image's size; torch's takes constants alone."""
    return op.Mul(self, op.CastLike(other, self))


TRANSLATED: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.mul.Scalar: scaled}


class AdaptiveMean(nn.Module):
    """`nn.AdaptiveAvgPool2d`: the means over bins that begin at floor(i h / n) and end at ceil((i + 1) h / n), as a
    product of the map with one matrix for rows and one for columns."""

    def __init__(self, bins: tuple[int, int]):
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (_means(n, x.shape[axis], x) for n, axis in zip(self.bins, (-2, -1), strict=True))
        return rows @ x @ columns.mT


def _means(bins: int, length: int, like: Tensor) -> Tensor:
    """float[bins, length], each row with the sum 1."""
    place = torch.arange(length, device=like.device)
    i = torch.arange(bins, device=like.device)[:, None]
    inside = (place >= i * length // bins) & (place < ((i + 1) * length + bins - 1) // bins)
    return inside.to(like.dtype) / inside.sum(dim=1, keepdim=True)


@contextlib.contextmanager
def exportable(model: nn.Module) -> Iterator[None]:
    """Within it the model has only operators that ONNX knows, and the same weights."""
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
                replaced.append((module, name, child))
                setattr(module, name, AdaptiveMean(_pair(child.output_size)))
    try:
        yield
    finally:
        for module, name, child in replaced:
            setattr(module, name, child)


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
