"""Encoders: any timm feature extractor, as a list of feature maps with known strides."""

from pathlib import Path

import timm
from torch import Tensor, nn

from pipelines.errors import ConfigError, did_you_mean


class Encoder(nn.Module):
    """image[b, 3, h, w] -> one feature map per reduction, finest first."""

    def __init__(self, body: nn.Module, channels: list[int], reductions: list[int]):
        super().__init__()
        self.body = body
        self.channels = channels
        self.reductions = reductions

    def forward(self, images: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.body(images)
        return features

    def at(self, reduction: int) -> int:
        """The position of the feature map whose stride is `reduction`."""
        return self.reductions.index(reduction)


def build(name: str, weights: str, output_stride: int = 32) -> Encoder:
    """`weights`: none, imagenet, or the path of a .safetensors file with timm's keys.

    An `output_stride` below 32 dilates the last stages (for the architectures of timm that can be dilated).
    """
    family = name.split(".")[0]
    if not timm.is_model(family):
        known = timm.list_models()
        raise ConfigError(
            f"model.encoder: timm has no '{name}'{did_you_mean(name, known)}",
            do="choose one of timm.list_models(): resnet18, resnet50, mobilenetv3_large_100, regnetx_002, ...",
        )
    options = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        body = timm.create_model(name, features_only=True, pretrained=weights == "imagenet", **options)
    except (RuntimeError, ValueError, TypeError, AttributeError, OSError) as error:
        if weights == "imagenet":
            raise ConfigError(
                f"model.weights: the ImageNet weights of '{name}' cannot be had: {error}",
                do="connect to the network once, name a local .safetensors file, or set model.weights: none",
            ) from None
        raise ConfigError(f"model.encoder: '{name}' cannot serve as a feature extractor here: {error}") from None
    if weights not in ("none", "imagenet"):
        _load(body, Path(weights))
    return Encoder(body, body.feature_info.channels(), body.feature_info.reduction())


def _load(body: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix != ".safetensors" or not path.is_file():
        raise ConfigError(f"model.weights: '{path}' is not a .safetensors file", do="name one, or say none or imagenet")
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise ConfigError(f"model.weights: {path} is damaged: {error}") from None
    wanted = body.state_dict()
    missing = [k for k, v in wanted.items() if k not in found or found[k].shape != v.shape]
    if missing:  # a classifier head that the encoder lacks is fine, a layer without weights is not
        raise ConfigError(
            f"model.weights: {path} does not fit the encoder",
            [f"missing or of another shape: {k}" for k in missing[:5]],
        )
    body.load_state_dict({k: found[k] for k in wanted})
