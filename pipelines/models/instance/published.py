"""The weights of torchvision's Faster and Mask R-CNN, where `model.weights` names a .safetensors file of such a state.

Its layers have the same shapes and nearly the same names. What a file has for other classes than the dataset's stays
as it was initialised, as do masks that it lacks; of everything else, each layer must be found. Names from before
torchvision 0.13, as the first published files have them, are understood by its own layers.

Trained so, a network expects `smallest_anchor: 32`. Two differences remain, which a little training takes away: the
published features are pooled half a cell off (`regions` says why), and the norms of COCO_V1 are used there without
their epsilon.
"""

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.models import encoders

PARTS = {"encoder.body": "backbone.body.", "fpn": "backbone.fpn.", "rpn": "rpn.", "roi": "roi_heads."}
# Not in every such file, or for other classes; and a count of batches, which frozen norms do not keep.
OPTIONAL = ("box_predictor.", "mask_predictor.", "mask_head.")
COUNT = "num_batches_tracked"
SUGGESTED = "torchvision's detectors stand on model.encoder: resnet50, with model.channels: null"


def for_encoder(choice: encoders.Choice) -> encoders.Choice:
    """A detector's weights are not for the encoder alone: `fill` gives it its share."""
    return replace(choice, weights="none") if _read(choice.weights) else choice


def fill(model: nn.Module, choice: encoders.Choice) -> None:
    """Does nothing where other weights are asked for."""
    if not (found := _read(choice.weights)):
        return
    try:
        unfit = [f"{name}.{key}" for name, prefix in PARTS.items() for key in _fill(model, name, prefix, found)]
    except RuntimeError as error:  # an old name's layer has another shape
        unfit = [str(error)]
    if unfit:
        raise ConfigError(
            f"model.weights: {choice.weights} does not fit the model",
            [f"missing or of another shape: {key}" for key in unfit[:5]],
            do=SUGGESTED,
        )


def _fill(model: nn.Module, name: str, prefix: str, found: dict[str, Tensor]) -> list[str]:
    """-> the names of what had to be found and was not."""
    part = model.get_submodule(name)
    theirs = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    shapes = {key: value.shape for key, value in part.state_dict().items()}
    fitting = {key: value for key, value in theirs.items() if shapes.get(key, value.shape) == value.shape}
    missing = part.load_state_dict(fitting, strict=False).missing_keys
    return [key for key in missing if not key.startswith(OPTIONAL) and not key.endswith(COUNT)]


def _read(weights: str) -> dict[str, Tensor]:
    """Nothing, unless it is a file with a detector's backbone."""
    if Path(weights).suffix != ".safetensors" or not Path(weights).is_file():
        return {}
    try:
        with safe_open(weights, framework="pt") as file:
            names = list(file.keys())
            detector = any(name.startswith(PARTS["encoder.body"]) for name in names)
            return {name: file.get_tensor(name) for name in names} if detector else {}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"model.weights: {weights} cannot be read: {error}") from None
