"""Batch norm for maps that may shrink to a single pixel: pooled ones, or the deepest of a small image."""

import torch.nn.functional as F
from torch import Tensor, nn


class SafeBatchNorm(nn.BatchNorm2d):
    """Batch norm wherever there are statistics to take. One value per channel, as in a batch of one pooled image,
    has none: there the running statistics serve, in training as in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.numel() > x.shape[1]:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
