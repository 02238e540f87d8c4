"""Encoders at output stride 8 for DeepLab v1 and v2, VGG among them, which timm does not dilate itself."""

from torch import nn

from pipelines.models import encoders

STRIDE = 8


def build(choice: encoders.Choice, *, paper: str) -> encoders.Encoder:
    """As `encoders.build`. In a VGG, pool4 and pool5 go from pixel to pixel, and the convolutions behind them take
    every second pixel (arXiv 1412.7062, section 3.1)."""
    if not choice.or_else(paper).name.startswith("vgg"):
        return encoders.build(choice, paper=paper, output_stride=STRIDE)
    encoder = encoders.build(choice, paper=paper)
    stride = rate = 1
    for layer in encoder.body.modules():
        if isinstance(layer, nn.Conv2d):
            layer.dilation = layer.padding = (rate, rate)
        elif isinstance(layer, nn.MaxPool2d) and stride < STRIDE:
            stride *= 2
        elif isinstance(layer, nn.MaxPool2d):
            # 3x3, as in the authors' files: a window of 2x2 would change the size of the map.
            layer.kernel_size, layer.stride, layer.padding = 3, 1, 1
            rate *= 2
    encoder.reductions = [min(reduction, STRIDE) for reduction in encoder.reductions]
    return encoder
