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
