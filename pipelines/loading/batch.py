"""Samples -> batches: images stay uint8 until they are on the device, and are padded on the right and below."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.data import statistics
from pipelines.data.schema import Record
from pipelines.errors import DataError
from pipelines.targets import Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What the loader hands to the loop."""

    ids: list[str]
    images: Tensor  # uint8[b, 3, h, w], channels last in memory
    targets: Targets


def decode(record: Record) -> np.ndarray:
    """uint8[h, w, 3] in RGB; of raw pixels a view. The bytes were read by the bounded decoder at ingest and are
    hash-checked since, so the fastest decoder may be used on them."""
    try:
        return statistics.decode(record)
    except (DataError, cv2.error):
        raise DataError(
            f"{record.id}: its image in the shard cannot be decoded", do="dvc repro --force ingest"
        ) from None


def pad_images(images: Sequence[Tensor], stride: int) -> tuple[Tensor, list[tuple[int, int]]]:
    """uint8[c, h, w] of any sizes -> uint8[b, c, H, W] with H and W multiples of `stride`, and the sizes.

    The border is replicated: it looks like no object and shifts no batch statistics.
    """
    sizes = [(int(i.shape[-2]), int(i.shape[-1])) for i in images]
    height, width = (-(-max(s) // stride) * stride for s in zip(*sizes, strict=True))
    if all(s == (height, width) for s in sizes):
        return torch.stack(list(images)), sizes
    padded = [
        F.pad(i[None].float(), (0, width - w, 0, height - h), mode="replicate")[0].to(i.dtype)
        for i, (h, w) in zip(images, sizes, strict=True)
    ]
    return torch.stack(padded), sizes


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8[b, 3, h, w] -> float32 of zero mean and unit deviation, on the images' device.

    Channels last in memory: convolutions are a fifth faster so on CPU, and tensor cores want it. Whole rows at once:
    three channels alone are too short for vector instructions.
    """
    # A channel that is the same everywhere (two-channel microscopy stored as RGB) must not be divided by 0.
    std = [max(s, 1 / 255) for s in std]
    width = images.shape[-1]
    scale = images.new_tensor([255.0 * s for s in std], dtype=torch.float32).repeat(width)
    shift = images.new_tensor([m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32).repeat(width)
    rows: Tensor = images.permute(0, 2, 3, 1).flatten(2).float().div_(scale).sub_(shift)
    return rows.reshape(*rows.shape[:2], width, 3).permute(0, 3, 1, 2)
