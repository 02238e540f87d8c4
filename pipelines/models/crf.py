"""The fully connected CRF: Kraehenbuehl, Koltun, NeurIPS 2011 (arXiv 1210.5644), by mean field.

Every pixel speaks to every other, through a Gaussian of their distance (smoothness) and one of their distance and
their difference in colour (appearance). Mean field starts from Q = softmax(logits) and repeats

    messages = D^(-1/2) K D^(-1/2) Q        for each of the two kernels K, D its row sums
    Q = softmax(logits - (sum of weight * messages) @ compatibility^T)

The kernels are normalised symmetrically and keep a pixel's message to itself, both as in the reference implementation
(the paper leaves out j = i). The smoothness kernel is exact; `gaussian_filter` says how the appearance kernel is
computed, exactly up to 4096 pixels.

All of it is one operator of torch, with a gradient of its own: the sizes inside depend on an image's colours, which
neither torch.compile nor torch.export could follow. The gradient repeats the forward pass in place of keeping it.
Images are constants to it. Held against mean field in float64 over all pairs of pixels.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipelines.models.gaussian_filter import EXACT_BELOW, bilateral, gaussian
from pipelines.models.permutohedral import weighted_sums

NOTHING = 5.5  # deviations beyond which a Gaussian adds nothing to a sum in float32


def refine(
    probabilities: Tensor,
    images: Tensor,
    *,
    iterations: int,
    spatial_weight: float,
    spatial_sigma: float,
    bilateral_weight: float,
    bilateral_sigma: float,
    color_sigma: float,
    exact_below: int = EXACT_BELOW,
) -> Tensor:
    """Afterwards, with Potts' compatibility: float[b, c, h, w] that sum to 1 and images[b, 3, h, w] of 0..255, of any
    type -> float[b, c, h, w]. Sigmas are deviations: of pixels, and of 255."""
    probabilities = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    logits = probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
    weights = logits.new_tensor([spatial_weight, bilateral_weight]).unsqueeze(1).expand(2, logits.shape[1])
    refined: Tensor = mean_field(
        logits,
        images.to(logits),
        weights.contiguous(),
        potts(logits.shape[1]).to(logits),
        iterations,
        [spatial_sigma, bilateral_sigma, color_sigma],
        exact_below,
    )
    return refined.softmax(dim=1)


def potts(classes: int) -> Tensor:
    """What it costs that two pixels differ: 1, whichever classes they have."""
    return 1 - torch.eye(classes)


@torch.library.custom_op("maskline::mean_field", mutates_args=())
def mean_field(
    logits: Tensor,
    images: Tensor,
    weights: Tensor,
    compatibility: Tensor,
    iterations: int,
    sigmas: list[float],
    exact_below: int,
) -> Tensor:
    """float[b, c, h, w], [b, 3, h, w], [2, c] of the two kernels, [c, c] -> the last iteration's logits[b, c, h, w].

    `sigmas`: spatial, bilateral, colour. Computed in the logits' type, also under autocast.
    """
    refined = torch.empty_like(logits, memory_format=torch.contiguous_format)
    with torch.autocast(logits.device.type, enabled=False):
        for i, image in enumerate(images):
            unary, kernels = _pixels(logits[i]), Kernels(image, sigmas, exact_below)
            last = unary
            for step in _iterate(unary, kernels, weights, compatibility, iterations):
                last = step.logits
            refined[i] = _image(last, logits[i])
    return refined


@torch.library.custom_op("maskline::mean_field_backward", mutates_args=())
def mean_field_backward(
    grad: Tensor,
    logits: Tensor,
    images: Tensor,
    weights: Tensor,
    compatibility: Tensor,
    iterations: int,
    sigmas: list[float],
    exact_below: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of logits, weights and compatibility."""
    to_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    to_weights, to_compatibility = torch.zeros_like(weights), torch.zeros_like(compatibility)
    with torch.autocast(logits.device.type, enabled=False):
        for i, image in enumerate(images):
            unary, kernels = _pixels(logits[i]), Kernels(image, sigmas, exact_below)
            steps = list(_iterate(unary, kernels, weights, compatibility, iterations))
            at_last = _pixels(grad[i])
            at_unary = torch.zeros_like(unary)
            for q, messages, _ in reversed(steps):
                at_unary += at_last
                to_compatibility -= at_last.T @ _weigh(weights, messages)
                at_weighed = -at_last @ compatibility
                to_weights += (at_weighed * messages).sum(dim=1)
                at_q = kernels(weights.unsqueeze(1) * at_weighed, transposed=True).sum(dim=0)
                at_last = q * (at_q - (q * at_q).sum(dim=1, keepdim=True))
            to_logits[i] = _image(at_unary + at_last, logits[i])
    return to_logits, to_weights, to_compatibility


class Step(NamedTuple):
    """One iteration: all are [pixels, classes], the messages one such for each kernel."""

    q: Tensor
    messages: Tensor
    logits: Tensor


def _iterate(
    unary: Tensor, kernels: "Kernels", weights: Tensor, compatibility: Tensor, iterations: int
) -> Iterator[Step]:
    logits = unary
    for _ in range(iterations):
        q = logits.softmax(dim=1)
        messages = kernels(q.expand(2, -1, -1))
        logits = unary - _weigh(weights, messages) @ compatibility.T
        yield Step(q, messages, logits)


def _weigh(weights: Tensor, messages: Tensor) -> Tensor:
    return (weights.unsqueeze(1) * messages).sum(dim=0)


def _pixels(maps: Tensor) -> Tensor:
    """[c, h, w] -> [h * w, c], side by side in memory for the filters."""
    return maps.flatten(1).T.contiguous()


def _image(pixels: Tensor, like: Tensor) -> Tensor:
    return pixels.T.reshape(like.shape)


class Kernels:
    """The smoothness and the appearance kernel of one image, normalised: values[2, pixels, c] -> as many messages."""

    def __init__(self, image: Tensor, sigmas: list[float], exact_below: int):
        spatial_sigma, bilateral_sigma, color_sigma = sigmas
        self.rows, self.columns = (Smoothness(length, spatial_sigma, like=image) for length in image.shape[-2:])
        self.appearance = bilateral(
            image, position_sigma=bilateral_sigma, color_sigma=color_sigma, exact_below=exact_below
        )
        # Sums are 1 or more, but for what an approximation leaves of them.
        self.scale = self.appearance(image.new_ones(image[0].numel(), 1)).clamp_(min=1e-6).rsqrt_()

    def __call__(self, values: Tensor, *, transposed: bool = False) -> Tensor:
        smooth, appear = values
        grid = smooth.reshape(self.rows.length, self.columns.length, -1)
        smoothed = self.columns(self.rows(grid).transpose(0, 1)).transpose(0, 1).reshape(smooth.shape)
        appearing = self.scale * self.appearance(self.scale * appear, transposed=transposed)
        return torch.stack([smoothed, appearing])


class Smoothness:
    """The normalised kernel along one axis: its sums over an image are the products of those along both."""

    def __init__(self, length: int, sigma: float, *, like: Tensor):
        self.length = length
        at = torch.arange(length, device=like.device)
        kernel = gaussian(at.double() / sigma)
        scale = kernel.sum(dim=1).rsqrt()
        kernel = scale[:, None] * kernel * scale
        reach = min(length - 1, math.ceil(NOTHING * sigma))
        around = at[:, None] + torch.arange(-reach, reach + 1, device=like.device)
        self.around = around.clamp(0, length - 1)
        self.weights = kernel.gather(1, self.around).where(around == self.around, 0).to(like)

    def __call__(self, values: Tensor) -> Tensor:
        """float[length, ...] -> the same."""
        return weighted_sums(self.around, values.reshape(self.length, -1), self.weights).view(values.shape)


@mean_field.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@mean_field_backward.register_fake
def _(grad: Tensor, logits: Tensor, images: Tensor, weights: Tensor, compatibility: Tensor, *_: Any) -> Any:
    return (
        torch.empty_like(logits, memory_format=torch.contiguous_format),
        torch.empty_like(weights),
        torch.empty_like(compatibility),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    to_logits, to_weights, to_compatibility = mean_field_backward(grad, *ctx.saved_tensors, *ctx.options)
    return to_logits, None, to_weights, to_compatibility, None, None, None


mean_field.register_autograd(_gradients, setup_context=_keep)
