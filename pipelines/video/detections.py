"""What an image model finds in one frame, and what it looks like: instances, or the things of a panoptic map."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.data.prediction import Instances


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """Of one frame, in falling order of score."""

    masks: np.ndarray  # bool[n, h, w]
    labels: np.ndarray  # int64[n]
    scores: np.ndarray  # float32[n]
    looks: np.ndarray  # float32[n, c]: of unit length; c is 0 where nobody asked for them

    def __len__(self) -> int:
        return len(self.labels)


def detections(found: Instances, *, min_score: float, most: int, features: Tensor | None = None) -> Detections:
    """The `most` best with that score. `features` float32[c, h, w], of the frame at any stride."""
    order = np.argsort(-found.scores, kind="stable")
    order = order[found.scores[order] >= min_score][:most]
    masks = found.masks[order]
    return Detections(masks=masks, labels=found.labels[order], scores=found.scores[order], looks=looks(masks, features))


def looks(masks: np.ndarray, features: Tensor | None) -> np.ndarray:
    """Each mask's mean feature, less the frame's: what tells it from its surroundings. One without a pixel has no look
    (zeros, which are like nothing)."""
    if features is None or not len(masks):
        return np.zeros((len(masks), 0), np.float32)
    channels, height, width = features.shape
    small = [cv2.resize(m.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) for m in masks]
    weights = torch.from_numpy(np.stack(small)).flatten(1)
    flat = features.flatten(1)
    areas = weights.sum(dim=1, keepdim=True)
    pooled = weights @ flat.T / areas.clamp(min=1e-6) - flat.mean(dim=1)
    found: np.ndarray = (F.normalize(pooled, dim=1) * (areas > 0)).numpy()
    return found.reshape(-1, channels)
