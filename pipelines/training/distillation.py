"""A student that also learns what a trained model, its teacher, thinks of each pixel: Hinton, Vinyals and Dean 2015
(arXiv 1503.02531), pixel by pixel as in Liu et al. 2019 (arXiv 1903.04197, section 3.1).

The loss is T^2 KL(teacher || student) of both softmaxes at temperature T, the mean over the pixels that are labelled
(what the loader pads is not), so that its gradients are as large as the other losses', whatever T is.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.config import SOFT_TARGETS, Params
from pipelines.data.schema import IGNORE, Manifest
from pipelines.errors import DataError
from pipelines.inference import package
from pipelines.inference.options import Inference
from pipelines.inference.predictor import Predictor
from pipelines.models.blocks import resize
from pipelines.models.contract import Outputs
from pipelines.pixels import Pixels

TERM = "distillation"  # among the losses


class Teacher:
    """Not a module, so that nobody who looks for the student's weights finds the teacher's."""

    def __init__(self, predictor: Predictor, pixels: Pixels, *, temperature: float):
        self.predictor, self.pixels, self.temperature = predictor, pixels, temperature

    @torch.no_grad()
    def ask(self, images: Tensor) -> Tensor:
        """The student's images -> the teacher's logits[b, classes, h, w] of them."""
        if self.predictor.pixels != self.pixels:
            images = self.predictor.pixels.normalise(self.pixels.restore(images))
        height, width = images.shape[-2:]
        stride = self.predictor.model.stride
        border = (0, -width % stride, 0, -height % stride)
        logits = self.predictor.model(F.pad(images, border, mode="replicate") if any(border) else images)["semantic"]
        full = resize(logits.float(), (height + border[3], width + border[1]))
        return full[..., :height, :width]

    def loss(self, images: Tensor, outputs: Outputs, truth: Tensor) -> Tensor:
        """Of the student's outputs; truth int64[b, h, w] says which pixels are labelled."""
        student = outputs["semantic"].float()
        student = student if student.shape[-2:] == truth.shape[-2:] else resize(student, truth.shape[-2:])
        return divergence(student, self.ask(images), truth, temperature=self.temperature)


def divergence(student: Tensor, teacher: Tensor, truth: Tensor, *, temperature: float) -> Tensor:
    """logits[b, classes, h, w] of both -> a scalar; 0 where no pixel is labelled."""
    said, wanted = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    apart = F.kl_div(said, wanted, reduction="none", log_target=True).sum(dim=1)
    labelled = truth != IGNORE
    return temperature**2 * (apart * labelled).sum() / labelled.sum().clamp(min=1)


def teacher_of(params: Params, manifest: Manifest, pixels: Pixels, device: torch.device) -> Teacher | None:
    """DataError where it speaks of other classes, or of none."""
    settings = params.train.distill
    if settings.teacher is None:
        return None
    folder = Path(settings.teacher)
    predictor = package.load(folder, device=str(device), inference=Inference())
    name = predictor.description["model"]["name"]
    mine, its = SOFT_TARGETS[params.model.name], SOFT_TARGETS.get(name)
    if its != mine:
        able = ", ".join(other for other, kind in SOFT_TARGETS.items() if kind == mine)
        raise DataError(
            f"train.distill.teacher: {name} has scores of {its or 'no pixels'}, {params.model.name} of {mine}",
            do=f"choose a teacher that is one of {able}",
        )
    known, wanted = ([(c.name, c.isthing) for c in table] for table in (predictor.classes, manifest.classes))
    if known != wanted:
        raise DataError(
            "train.distill.teacher: it knows the classes {}, the dataset has {}".format(
                *(", ".join(name for name, _ in table) for table in (known, wanted))
            ),
            do="choose a teacher that was trained on these classes, in this order",
        )
    return Teacher(predictor, pixels, temperature=settings.temperature)
