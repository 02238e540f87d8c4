"""Scales, flips and windows of a semantic model, against the same by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.inference.averaging import probabilities
from pipelines.inference.options import Inference
from pipelines.inference.predictor import Predictor
from pipelines.models.contract import Classes
from pipelines.models.crf import refine
from pipelines.models.heads import SemanticModel
from pipelines.models.semantic.unet import UNet
from pipelines.pixels import Pixels

PIXELS = Pixels.of((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
CLASSES = [{"name": str(i), "color": (i, i, i), "isthing": False} for i in range(4)]
ABOUT = {"task": "semantic", "classes": CLASSES, "mean": PIXELS.mean, "std": PIXELS.std}


class Small(SemanticModel):
    """Not symmetric, and it minds its scale."""

    stride = 8

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv2d(3, 8, 8, stride=8)
        self.classify = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits = self.classify(self.down(images).tanh()) * 4
        return {"semantic": F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 50, 70), np.uint8))


def by_hand(model: SemanticModel, images: Tensor) -> Tensor:
    seen = (images.float() / 255 - torch.tensor(PIXELS.mean).view(3, 1, 1)) / torch.tensor(PIXELS.std).view(3, 1, 1)
    height, width = seen.shape[-2:]
    padded = F.pad(seen, (0, -width % 8, 0, -height % 8), mode="replicate")
    return model(padded)["semantic"][..., :height, :width].softmax(dim=1)


@torch.no_grad()
def test_the_flipped_image_counts_half(images):
    model = Small().eval()
    found = probabilities(model, images, PIXELS, Inference(flip=True))
    wanted = (by_hand(model, images) + by_hand(model, images.flip(-1)).flip(-1)) / 2
    torch.testing.assert_close(found, wanted)


@torch.no_grad()
def test_scales_are_averaged_at_the_image_s_own_size(images):
    model = Small().eval()
    found = probabilities(model, images, PIXELS, Inference(scales=(1.0, 0.5)))
    half = F.interpolate(images.float(), (25, 35), mode="bilinear", align_corners=False)
    smaller = F.interpolate(by_hand(model, half), (50, 70), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, (by_hand(model, images) + smaller) / 2)


@torch.no_grad()
@pytest.mark.parametrize(
    "inference",
    [
        Inference(tile=(32, 32), overlap=0.5, flip=True, scales=(0.75, 1.0)),
        Inference(tile=(24, 40), context=16),
        Inference(scales=(2.0,)),
    ],
)
def test_probabilities_sum_to_1_and_are_the_images_own(images, inference):
    model = Small().eval()
    both = probabilities(model, images, PIXELS, inference)
    torch.testing.assert_close(both.sum(dim=1), torch.ones(2, 50, 70))
    torch.testing.assert_close(both[1:], probabilities(model, images[1:], PIXELS, inference))


@torch.no_grad()
def test_the_tiles_of_a_network_without_padding_are_the_whole():
    """Overlap-tile as its paper means it: what lies around a tile is seen, and mirrored only where the image ends."""
    torch.manual_seed(0)
    model = UNet(classes=Classes(things=(), stuff=(0, 1, 2)), channels=8, padded=False).eval()
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 96, 128), np.uint8))
    whole = probabilities(model, image, PIXELS, Inference())
    tiled = probabilities(model, image, PIXELS, Inference(tile=(32, 48)))
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


def test_a_crf_cleans_what_the_network_says(images):
    """The colours of the image, not what the network sees of them."""
    crf = {"iterations": 5, "spatial_weight": 3.0, "spatial_sigma": 3.0}
    crf |= {"bilateral_weight": 4.0, "bilateral_sigma": 30.0, "color_sigma": 10.0}
    model = Small().eval()
    with torch.no_grad():
        found = probabilities(model, images, PIXELS, Inference(flip=True, crf=crf))
        wanted = refine(probabilities(model, images, PIXELS, Inference(flip=True)), images, **crf)
    torch.testing.assert_close(found, wanted)


def test_the_predictor_asks_as_it_was_told(images):
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    odd = np.ascontiguousarray(arrays[0][:33, :41])
    model = Small()
    plain = Predictor(model, ABOUT).predict([*arrays, odd])
    flipped = Predictor(model, ABOUT, inference=Inference(flip=True)).predict([*arrays, odd])
    for prediction, array in zip(flipped, [*arrays, odd], strict=True):
        with torch.no_grad():
            image = torch.from_numpy(array).permute(2, 0, 1)[None]
            wanted = (by_hand(model, image) + by_hand(model, image.flip(-1)).flip(-1))[0] / 2
        assert np.array_equal(prediction.semantic, wanted.argmax(dim=0).numpy())
        np.testing.assert_allclose(prediction.confidence, wanted.amax(dim=0).numpy(), atol=1e-5)
    assert any(not np.array_equal(a.semantic, b.semantic) for a, b in zip(plain, flipped, strict=True))


def test_what_changes_nothing_is_no_other_way_of_asking():
    section = {"tile": None, "overlap": 0.25, "context": 7, "scales": [1.0], "flip": False, "crf": {"iterations": 0}}
    assert Inference.of(section).plain
    assert Inference.of(None).plain
    tiled = Inference.of({**section, "tile": [32, 32]})
    assert not tiled.plain
    assert Inference.of(tiled.to_json()) == tiled
    assert tiled.identify("abc").startswith("abc-")
    assert Inference.of(section).identify("abc") == "abc"
