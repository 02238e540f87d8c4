"""CRF as the last layer of a semantic network: CRF-RNN, Zheng et al., ICCV 2015 (arXiv 1502.03240).

Mean field unrolled for a fixed number of iterations, so that the network learns what the CRF makes of its scores.
Trained with it are the weight of each kernel for each class, which begin as the given ones, and the compatibility of
each pair of classes, which begins as Potts' model. The kernels' deviations are fixed, as in the paper.

Strong kernels tip undecided scores over to one class, and learning waits for the scores to differ: the paper puts the
CRF behind a network that has been trained. Training both from the start asks for weights of 1 or so.

Deviation: kernels are normalised symmetrically (`crf`), the authors' code divides the sums alone. Pixels that the
loader pads take part as if they were of the image. There is no ONNX form of the mean field.
"""

import torch
from torch import Tensor, nn

from pipelines.data.prediction import Prediction
from pipelines.models.contract import Outputs, PixelLoss, SegmentationModel
from pipelines.models.crf import mean_field, potts
from pipelines.models.gaussian_filter import EXACT_BELOW
from pipelines.models.heads import SemanticModel
from pipelines.targets import Targets


class WithCRF(SemanticModel):
    """A semantic `model`, its "semantic" refined; all else is its own. Needs `model.pixels`, to see colours again."""

    def __init__(
        self,
        model: SegmentationModel,
        *,
        classes: int,
        iterations: int = 5,
        spatial_weight: float = 3.0,
        spatial_sigma: float = 3.0,
        bilateral_weight: float = 5.0,
        bilateral_sigma: float = 50.0,
        color_sigma: float = 13.0,
        exact_below: int = EXACT_BELOW,
    ):
        super().__init__()
        self.model = model
        self.stride, self.context, self.pixels = model.stride, model.context, model.pixels
        self.spatial_weight = nn.Parameter(torch.full((classes,), float(spatial_weight)))
        self.bilateral_weight = nn.Parameter(torch.full((classes,), float(bilateral_weight)))
        self.compatibility = nn.Parameter(potts(classes))
        self.iterations, self.exact_below = iterations, exact_below
        self.sigmas = [spatial_sigma, bilateral_sigma, color_sigma]

    def forward(self, images: Tensor) -> Outputs:
        if self.pixels is None:
            raise ValueError("a CRF compares colours: set the model's `pixels` before wrapping it")
        outputs = self.model(images)
        refined = mean_field(
            outputs["semantic"].float(),
            self.pixels.restore(images),
            torch.stack([self.spatial_weight, self.bilateral_weight]),
            self.compatibility,
            self.iterations,
            self.sigmas,
            self.exact_below,
        )
        return {**outputs, "semantic": refined}

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        return self.model.losses(outputs, targets, pixel_loss)

    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        return self.model.predict(outputs, sizes)
