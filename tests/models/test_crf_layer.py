"""The CRF as a network's last layer."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines import losses
from pipelines.data.formats import shapes
from pipelines.data.schema import IGNORE
from pipelines.inference import package
from pipelines.models import MODELS
from pipelines.models.contract import Classes, Outputs, Targets
from pipelines.models.crf import mean_field, potts, refine
from pipelines.models.crf_layer import WithCRF
from pipelines.models.encoders import Choice
from pipelines.models.heads import SemanticModel
from pipelines.pixels import Pixels
from tests.models.crf_scenes import TRAINED, scene

FIVE = Classes(things=(1, 3), stuff=(0, 2, 4))
PIXELS = Pixels.of((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
PIXEL_LOSS = losses.build({"cross_entropy": {"weight": 1.0, "class_weights": "none", "label_smoothing": 0.0}})


class Network(SemanticModel):
    """A small one of any size, so that the time goes into the CRF."""

    stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 5, 3, padding=1))

    def forward(self, images: torch.Tensor) -> Outputs:
        return {"semantic": self.layers(images)}


def behind(model: SemanticModel, **options: Any) -> WithCRF:
    model.pixels = PIXELS
    return WithCRF(model, classes=5, **{"iterations": 3, **TRAINED, **options})


def network(**options: Any) -> WithCRF:
    torch.manual_seed(0)
    return behind(Network(), **options)


def images_of(batch: int, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.stack([scene(height, width, 5.0, seed)[0] for seed in range(batch)])


def targets_of(batch: int, height: int = 32, width: int = 32) -> Targets:
    semantic = torch.stack([scene(height, width, 5.0, seed)[1].argmax(dim=0) for seed in range(batch)])
    semantic[:, :5] = IGNORE
    return Targets(semantic=semantic, instances=[])


class TestLayer:
    def test_it_begins_as_the_crf_afterwards(self):
        model, images = network().eval(), images_of(2)
        with torch.no_grad():
            found = model(PIXELS.normalise(images))["semantic"].softmax(dim=1)
            plain = model.model(PIXELS.normalise(images))["semantic"].softmax(dim=1)
        assert (found - plain).abs().max() > 0.01
        torch.testing.assert_close(found, refine(plain, images, iterations=3, **TRAINED), atol=1e-4, rtol=0)

    def test_it_learns_with_the_network(self):
        # Weak kernels: strong ones tip undecided scores over, and want a network that has learned something.
        model = network(spatial_weight=1.0, bilateral_weight=1.0).train()
        images, targets = PIXELS.normalise(images_of(2)), targets_of(2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
        history = []
        for _ in range(15):
            optimizer.zero_grad()
            (loss,) = model.losses(model(images), targets, PIXEL_LOSS).values()
            loss.backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
            optimizer.step()
            history.append(loss.item())
        assert history[-1] < 0.8 * history[0]
        own = (model.spatial_weight, model.bilateral_weight, model.compatibility)
        assert all(p.grad.any() for p in own)
        assert all((p != p.flatten()[0]).any() for p in own), "still as they began"

    @pytest.mark.parametrize("name", ["unetplusplus", "pspnet"])
    def test_what_else_the_network_gives_stays_its_own(self, name):
        plain = MODELS[name].build(classes=FIVE, encoder=Choice("test_resnet"), channels=16)
        model, images, targets = behind(plain, iterations=1), PIXELS.normalise(images_of(2)), targets_of(2)
        outputs = model(images)
        assert outputs.keys() == plain(images).keys() != {"semantic"}
        terms = model.losses(outputs, targets, PIXEL_LOSS)
        assert terms.keys() == plain.losses(outputs, targets, PIXEL_LOSS).keys()
        sum(terms.values()).backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_it_computes_in_float32_under_autocast(self):
        model, images = network().train(), PIXELS.normalise(images_of(1))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            coarse = model.model(images)["semantic"]
            found = model(images)["semantic"]
        wanted = mean_field(
            coarse.float(),
            PIXELS.restore(images),
            torch.tensor([[3.0] * 5, [5.0] * 5]),
            potts(5),
            3,
            model.sigmas,
            4096,
        )
        assert coarse.dtype == torch.bfloat16
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)

    @pytest.mark.parametrize("exact_below", [4096, 0])
    def test_an_image_s_result_is_its_own_and_the_same_again(self, exact_below):
        model, images = network(exact_below=exact_below).eval(), PIXELS.normalise(images_of(2))
        with torch.no_grad():
            scores = model.model(images)["semantic"]
            model.model.forward = lambda given: {"semantic": scores[-len(given) :]}
            both = model(images)["semantic"]
            assert torch.equal(both[1:], model(images[1:])["semantic"])
            assert torch.equal(both, model(images)["semantic"])

    def test_it_survives_a_file(self, tmp_path):
        model = network().eval()
        with torch.no_grad():
            model.compatibility += torch.rand(5, 5)
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        other = network(spatial_weight=1.0).eval()
        other.load_state_dict(load_file(tmp_path / "model.safetensors"))
        images = PIXELS.normalise(images_of(1))
        assert torch.equal(model(images)["semantic"], other(images)["semantic"])

    def test_it_compiles_without_a_break(self):
        model, images, targets = network().train(), PIXELS.normalise(images_of(2)), targets_of(2)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        losses = []
        for forward in (model, compiled):
            model.zero_grad()
            loss = model.losses(forward(images), targets, PIXEL_LOSS)["semantic"]
            loss.backward()
            losses.append((loss.detach(), *(p.grad for p in model.parameters())))
        torch.testing.assert_close(*losses)

    def test_it_is_exported_for_any_batch_and_size(self):
        model = network().eval()
        axes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
        example = PIXELS.normalise(images_of(2, 32, 64))
        with torch.no_grad():
            exported = torch.export.export(model, (example,), dynamic_shapes=(axes,), strict=False).module()
            images = PIXELS.normalise(images_of(3, 64, 32))
            torch.testing.assert_close(exported(images)["semantic"], model(images)["semantic"])

    def test_the_builder_puts_it_behind_a_network(self):
        parameters = {"name": "unet", "encoder": "test_resnet", "channels": 16, "crf": {"iterations": 2, **TRAINED}}
        model = package.build("semantic", parameters, shapes.classes(), PIXELS)
        assert isinstance(model, WithCRF)
        assert model.compatibility.shape == (len(shapes.classes()),) * 2
        assert model(PIXELS.normalise(images_of(2)))["semantic"].shape[1] == len(shapes.classes())
        parameters["crf"]["iterations"] = 0
        assert not isinstance(package.build("semantic", parameters, shapes.classes(), PIXELS), WithCRF)

    def test_colours_are_needed(self):
        with pytest.raises(ValueError, match="set the model's `pixels`"):
            WithCRF(Network(), classes=5, iterations=1)(torch.zeros(1, 3, 32, 32))
