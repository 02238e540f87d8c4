"""Probabilities of a semantic model: averaged over scales and flips, put together from windows, refined by a CRF."""

import torch
from torch import Tensor

from pipelines.inference.options import Inference
from pipelines.inference.tiling import windows
from pipelines.models.blocks import resize
from pipelines.models.contract import SegmentationModel
from pipelines.models.crf import refine
from pipelines.pixels import Pixels


def probabilities(model: SegmentationModel, images: Tensor, pixels: Pixels, inference: Inference) -> Tensor:
    """uint8[b, 3, h, w] -> float32[b, classes, h, w] that sum to 1."""
    size = images.shape[-2:]
    seen = pixels.normalise(images)
    total = torch.zeros(())
    for scale in inference.scales:
        scaled = seen if scale == 1 else resize(seen, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
        for flipped in (False, True) if inference.flip else (False,):
            found = _tiled(model, scaled.flip(-1) if flipped else scaled, inference)
            found = found.flip(-1) if flipped else found
            total = total.to(found) + (found if found.shape[-2:] == size else resize(found, size))
    averaged = total / total.sum(dim=1, keepdim=True)
    return averaged if inference.crf is None else refine(averaged, images, **inference.crf)


def _tiled(model: SegmentationModel, images: Tensor, inference: Inference) -> Tensor:
    if inference.tile is None:
        return _ask(model, images)
    # What a network without padding would mirror at a window's edge, the image has; its grid begins with the window.
    context = max(inference.context, model.context)
    return windows(
        lambda window: _ask(model, window),
        images,
        tile=inference.tile,
        overlap=inference.overlap,
        context=-(-context // model.stride) * model.stride,
        stride=model.stride,
    )


def _ask(model: SegmentationModel, images: Tensor) -> Tensor:
    """Once, padded on the right and below as the loader and the plain predictor do."""
    height, width = images.shape[-2:]
    padding = (0, -width % model.stride, 0, -height % model.stride)
    padded = torch.nn.functional.pad(images, padding, mode="replicate") if any(padding) else images
    logits: Tensor = model(padded)["semantic"]
    return logits[..., :height, :width].float().softmax(dim=1)
