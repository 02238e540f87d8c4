"""The section `loss`: what is learned from."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipelines.config.fields import Above0, Section, Weight

# Of results/validate/balance.json.
ClassWeights = Literal["none", "inverse_frequency", "median_frequency", "effective_number"]


class PixelLoss(Section):
    """Of each pixel alone, each class with its weight."""

    weight: Weight
    class_weights: ClassWeights


class CrossEntropy(PixelLoss):
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]


class Border(PixelLoss):
    border_weight: Weight
    sigma: Above0


class Ohem(PixelLoss):
    threshold: Annotated[float, Field(gt=0, lt=1)]
    min_kept: Annotated[float, Field(gt=0, le=1)]


class Focal(PixelLoss):
    gamma: Weight


class Overlap(Section):
    """Of all pixels of a class."""

    weight: Weight


class Dice(Overlap):
    squared: bool


class Tversky(Overlap):
    alpha: Weight
    beta: Weight


class FocalTversky(Tversky):
    gamma: Above0


class SemanticLoss(Section):
    """A loss that is not named is not used."""

    cross_entropy: CrossEntropy | None = None
    binary_cross_entropy: PixelLoss | None = None
    border_cross_entropy: Border | None = None
    ohem: Ohem | None = None
    focal: Focal | None = None
    dice: Dice | None = None
    generalized_dice: Overlap | None = None
    jaccard: Overlap | None = None
    lovasz: Overlap | None = None
    tversky: Tversky | None = None
    focal_tversky: FocalTversky | None = None

    def weighted(self) -> dict[str, dict[str, float | str | bool]]:
        """name -> weight and options, of those in use."""
        return {name: loss.model_dump() for name, loss in self if loss is not None and loss.weight > 0}


class Terms(Section):
    semantic: Weight
    auxiliary: Weight
    center: Weight
    offset: Weight
    rpn_objectness: Weight
    rpn_box: Weight
    classifier: Weight
    box: Weight
    mask: Weight
    centerness: Weight
    boundary: Weight
    point: Weight
    semantic_region: Weight
    panoptic: Weight
    dice: Weight


class Loss(Section):
    semantic: SemanticLoss
    terms: Terms

    @field_validator("semantic")
    @classmethod
    def _not_all_zero(cls, semantic: SemanticLoss) -> SemanticLoss:
        if not semantic.weighted():
            raise ValueError("all weights are 0: give at least one loss a weight above 0")
        return semantic
