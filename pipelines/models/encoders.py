"""Encoders: any timm feature extractor, as a list of feature maps with known strides."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import FeatureListNet
from torch import Tensor, nn

from pipelines.errors import ConfigError, did_you_mean

SUGGESTED = "choose a convolutional one: resnet18, resnet50, regnetx_002, convnext_tiny, mobilenetv3_large_100, ..."
PROBE = (64, 96)  # not square, and not the size that a fixed-size architecture was made for


@dataclass(frozen=True, slots=True)
class Choice:
    """Which encoder a model is asked to stand on. `weights`: none, imagenet, or the path of a .safetensors file."""

    name: str = "paper"  # one of timm's, or the one that the architecture was published with
    weights: str = "none"
    in_channels: int = 3

    @property
    def is_papers(self) -> bool:
        return self.name == "paper"

    def or_else(self, paper: str) -> "Choice":
        return replace(self, name=paper) if self.is_papers else self


PAPER = Choice()


class Encoder(nn.Module):
    """image[b, 3, h, w] -> one feature map per reduction, finest first."""

    def __init__(self, name: str, body: nn.Module, channels: list[int], reductions: list[int]):
        super().__init__()
        self.name = name
        self.body = body
        self.channels = channels
        self.reductions = reductions

    def forward(self, images: Tensor) -> list[Tensor]:
        batch, _, height, width = images.shape
        deepest = self.reductions[-1]
        if self.training and batch * (height // deepest) * (width // deepest) < 2:
            raise ConfigError(
                f"train.augment.crop: {batch} image of {height}x{width} leaves the encoder one value per channel, of "
                "which batch norm can take no statistics",
                do="enlarge train.augment.crop, or train.batch_size per worker",
            )
        features: list[Tensor] = self.body(images)
        return features

    def finest(self, images: Tensor, count: int) -> list[Tensor]:
        """The first `count` feature maps; of a body that is a plain sequence, the layers behind them are not run."""
        if count == len(self.reductions) or not isinstance(self.body, FeatureListNet) or self.body.concat:
            everything: list[Tensor] = self(images)
            return everything[:count]
        features, x = [], images
        for name, layer in self.body.items():
            x = layer(x)
            if name in self.body.return_layers:
                features.append(x)
            if len(features) == count:
                break
        return features

    def at(self, reduction: int) -> int:
        """The position of the deepest feature map whose stride is `reduction`."""
        if reduction not in self.reductions:
            raise ConfigError(
                f"model.encoder: '{self.name}' has feature maps at strides {_list(self.reductions)}; "
                f"this model needs one at {reduction}",
                do=SUGGESTED,
            )
        return len(self.reductions) - 1 - self.reductions[::-1].index(reduction)


def build(choice: Choice, *, paper: str, output_stride: int = 32) -> Encoder:
    """`paper`: timm's name of the encoder that the architecture was published with. An `output_stride` below 32 dilates
    the last stages (for the architectures of timm that can be dilated)."""
    choice = choice.or_else(paper)
    name, weights = choice.name, choice.weights
    if not timm.is_model(name.split(".")[0]):
        known = timm.list_models()
        raise ConfigError(f"model.encoder: timm has no '{name}'{did_you_mean(name, known)}", do=SUGGESTED)
    options = {"features_only": True, "in_chans": choice.in_channels}
    options |= {} if output_stride == 32 else {"output_stride": output_stride}
    body = _create(name, weights == "imagenet", options)
    encoder = Encoder(name, body, body.feature_info.channels(), body.feature_info.reduction())
    _probe(encoder, choice.in_channels)
    if weights not in ("none", "imagenet"):
        _fill(body, _read(Path(weights)), weights)
    return encoder


def load(layers: Mapping[str, nn.Module], name: str, choice: Choice) -> None:
    """Fill layers that are not of an encoder of timm's with the weights that timm's `name` has under the same names."""
    weights = choice.weights
    if weights == "none":
        return
    if weights == "imagenet":
        found = {_plain(k): v for k, v in _create(name, True, {"in_chans": choice.in_channels}).state_dict().items()}
    else:
        found = _read(Path(weights))
    _fill(nn.ModuleDict({_plain(k): v for k, v in layers.items()}), found, weights)


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, OSError) as error:
        # Which of the two it was shows once the weights are left out; their download has many ways to fail.
        if pretrained and _create(name, False, options):
            raise ConfigError(
                f"model.weights: the ImageNet weights of '{name}' cannot be had: {error}",
                do="connect to the network once, name a local .safetensors file, or set model.weights: none",
            ) from None
        how = f" at output stride {options['output_stride']}" if "output_stride" in options else ""
        raise ConfigError(
            f"model.encoder: '{name}' cannot serve as a feature extractor{how}: {str(error) or 'timm cannot'}",
            do=SUGGESTED,
        ) from None


def _probe(encoder: Encoder, in_channels: int) -> None:
    """timm says which channels and strides to expect; some architectures keep neither, or take one size only."""
    wanted = [
        (1, channels, PROBE[0] // reduction, PROBE[1] // reduction)
        for channels, reduction in zip(encoder.channels, encoder.reductions, strict=True)
    ]
    encoder.eval()
    try:
        with torch.no_grad():
            found = [tuple(f.shape) for f in encoder(torch.zeros(1, in_channels, *PROBE))]
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise ConfigError(
            f"model.encoder: '{encoder.name}' does not take images of any size: {error}", do=SUGGESTED
        ) from None
    finally:
        encoder.train()
    if found != wanted:
        raise ConfigError(
            f"model.encoder: '{encoder.name}' gives feature maps {_list(found)} where its strides say {_list(wanted)}",
            do=SUGGESTED,
        )


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix != ".safetensors" or not path.is_file():
        raise ConfigError(f"model.weights: '{path}' is not a .safetensors file", do="name one, or say none or imagenet")
    try:
        return {_plain(k): v for k, v in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"model.weights: {path} cannot be read: {error}") from None


def _fill(module: nn.Module, found: dict[str, Tensor], weights: str) -> None:
    """What is found beside it, such as a classifier that an encoder lacks, is fine; a layer without weights is not."""
    wanted = module.state_dict()
    missing = [k for k, v in wanted.items() if _plain(k) not in found or found[_plain(k)].shape != v.shape]
    if missing:
        raise ConfigError(
            f"model.weights: {weights} does not fit the encoder",
            [f"missing or of another shape: {k}" for k in missing[:5]],
        )
    module.load_state_dict({k: found[_plain(k)] for k in wanted})


def _plain(key: str) -> str:
    """timm's feature extractors rename some layers: `stages.0` becomes `stages_0`, or gets a `model.` in front."""
    return key.removeprefix("model.").replace(".", "_")


def _list(values: list[Any]) -> str:
    return ", ".join(str(v) for v in values)
