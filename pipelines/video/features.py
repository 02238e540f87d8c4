"""What an encoder sees in each place of a frame, made comparable: unit vectors at one stride."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.errors import ConfigError
from pipelines.inference.predictor import Predictor
from pipelines.models.encoders import Encoder
from pipelines.pixels import Pixels


class Features:
    """Of `encoder` in evaluation mode, from its finest feature maps up to the one of `stride`, each normalised."""

    def __init__(self, encoder: Encoder, pixels: Pixels, *, stride: int, device: str = "cpu"):
        self.encoder, self.pixels, self.device = encoder.to(device).eval(), pixels, torch.device(device)
        self.level = encoder.at(stride)
        self.stride = stride

    @classmethod
    def of(cls, predictor: Predictor, *, stride: int) -> "Features":
        """Those of a trained model's own encoder."""
        encoder = next((m for m in predictor.model.modules() if isinstance(m, Encoder)), None)
        if encoder is None:
            name = predictor.description["model"]["name"]
            raise ConfigError(f"{name} has no encoder whose features could be compared", do="name another model")
        return cls(encoder, predictor.pixels, stride=stride, device=str(predictor.device))

    def __call__(self, image: np.ndarray) -> Tensor:
        """uint8[h, w, 3] -> float32[c, ceil(h / stride), ceil(w / stride)] of unit length."""
        height, width = image.shape[:2]
        deepest = self.encoder.reductions[-1]
        padding = (0, -width % deepest, 0, -height % deepest)
        with torch.no_grad():
            images = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(self.device)
            seen = F.pad(self.pixels.normalise(images), padding, mode="replicate")
            found = F.normalize(self.encoder.finest(seen, self.level + 1)[-1][0].float(), dim=0)
        return found[:, : -(-height // self.stride), : -(-width // self.stride)].cpu()
