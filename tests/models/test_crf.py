"""The fully connected CRF against mean field in float64 over all pairs of pixels."""

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.spatial.distance import cdist
from torch import nn

from pipelines import losses
from pipelines.data.formats import shapes
from pipelines.data.schema import IGNORE
from pipelines.errors import ConfigError
from pipelines.inference import package
from pipelines.models import MODELS
from pipelines.models.contract import Classes, Outputs, Targets
from pipelines.models.crf import mean_field, potts, refine
from pipelines.models.crf_layer import WithCRF
from pipelines.models.gaussian_filter import Exact, Factored, bilateral
from pipelines.models.heads import SemanticModel
from pipelines.models.permutohedral import Lattice, simplices
from pipelines.pixels import Pixels

FIVE = Classes(things=(1, 3), stuff=(0, 2, 4))
PIXELS = Pixels.of((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
PIXEL_LOSS = losses.build({"cross_entropy": {"weight": 1.0, "class_weights": "none", "label_smoothing": 0.0}})
TRAINED = {"spatial_weight": 3.0, "spatial_sigma": 3.0, "bilateral_weight": 5.0, "bilateral_sigma": 50.0,
           "color_sigma": 13.0}  # fmt: skip
AFTERWARDS = {**TRAINED, "bilateral_weight": 4.0, "bilateral_sigma": 49.0, "color_sigma": 5.0}
NARROW = {"spatial_weight": 1.0, "spatial_sigma": 1.5, "bilateral_weight": 8.0, "bilateral_sigma": 6.0,
          "color_sigma": 30.0}  # fmt: skip
SIGMAS = [pytest.param(TRAINED, id="trained"), pytest.param(AFTERWARDS, id="afterwards"),
          pytest.param(NARROW, id="narrow")]  # fmt: skip


def gaussian(at: np.ndarray) -> np.ndarray:
    """float64[n, d] -> [n, n]"""
    return np.exp(-0.5 * cdist(at, at, "sqeuclidean"))


def normalised(between: np.ndarray) -> np.ndarray:
    sums = between.sum(axis=1)
    return between / np.sqrt(sums[:, None] * sums)


def features(image: torch.Tensor, position_sigma: float, color_sigma: float) -> np.ndarray:
    places = np.stack(np.meshgrid(*map(np.arange, image.shape[-2:]), indexing="ij"), axis=-1).reshape(-1, 2)
    colors = image.numpy().astype(np.float64).reshape(len(image), -1).T
    return np.concatenate([places / position_sigma, colors / color_sigma], axis=1)


def softmax(x: np.ndarray) -> np.ndarray:
    exp = np.exp(x - x.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def brute_force(probabilities: torch.Tensor, image: torch.Tensor, iterations: int, options: dict[str, float]) -> Any:
    """[c, h, w] and [3, h, w] -> float64[c, h, w]: every pixel listens to every pixel."""
    at = features(image, options["bilateral_sigma"], options["color_sigma"])
    near = normalised(gaussian(at[:, :2] * options["bilateral_sigma"] / options["spatial_sigma"]))
    heard = options["spatial_weight"] * near + options["bilateral_weight"] * normalised(gaussian(at))
    unary = np.log(probabilities.numpy().astype(np.float64).reshape(len(probabilities), -1).T)
    q = softmax(unary)
    for _ in range(iterations):
        q = softmax(unary + heard @ q)
    return q.T.reshape(probabilities.shape)


def scene(height: int, width: int, noise: float, seed: int = 0, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """An image uint8[3, h, w] of shaded discs on a shaded ground, with noise; and probabilities of what is where."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    labels = np.zeros((height, width), int)
    for label in range(1, classes):
        labels[np.hypot(y - rng.uniform(0, 0.75), x - rng.uniform()) < rng.uniform(0.15, 0.35)] = label
    image = (
        rng.uniform(30, 220, (classes, 3))[labels] + 60 * (x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1))[..., None]
    )
    image = np.clip(image + noise * rng.standard_normal(image.shape), 0, 255).astype(np.uint8)
    logits = 2.0 * np.eye(classes)[labels] + 1.2 * rng.standard_normal((height, width, classes))
    probabilities = torch.from_numpy(softmax(logits.reshape(-1, classes)).reshape(logits.shape)).float()
    return torch.from_numpy(image).permute(2, 0, 1).contiguous(), probabilities.permute(2, 0, 1).contiguous()


@pytest.mark.parametrize("options", SIGMAS)
@pytest.mark.parametrize("noise", [0.0, 6.0, 40.0])
def test_marginals_of_small_images_are_those_of_brute_force(noise, options):
    scenes = [scene(24, 32, noise, seed) for seed in (0, 1)]
    images, probabilities = (torch.stack(parts) for parts in zip(*scenes, strict=True))
    found = refine(probabilities, images, iterations=10, **options)
    assert found.dtype == torch.float32
    for got, (image, given) in zip(found, scenes, strict=True):
        np.testing.assert_allclose(got.numpy(), brute_force(given, image, 10, options), atol=1e-4)


@pytest.mark.parametrize("options", SIGMAS)
def test_marginals_of_larger_images_are_close(options):
    """As far as an approximation can promise: where two classes are even, a small error may decide."""
    image, given = scene(48, 64, 6.0)
    found = refine(given[None], image[None], iterations=10, exact_below=0, **options)[0].numpy()
    wanted = brute_force(given, image, 10, options)
    assert np.abs(found - wanted).mean() < 1e-3
    assert (found.argmax(axis=0) == wanted.argmax(axis=0)).mean() > 0.995


@pytest.mark.parametrize(
    ("channels", "exact_below", "kind", "tolerance"),
    [(3, 4096, Exact, 1e-5), (3, 0, Factored, 0.02), (1, 0, Factored, 0.02), (4, 0, Lattice, 0.25)],
)
class TestEveryFilter:
    def test_it_sums_over_all_pairs(self, channels, exact_below, kind, tolerance):
        """Means, not sums: what a CRF takes of them."""
        image, values = scene(32, 40, 4.0)
        image = image.repeat(2, 1, 1)[:channels]
        apply = bilateral(image.float(), position_sigma=20.0, color_sigma=20.0, exact_below=exact_below)
        assert type(apply) is kind
        between = gaussian(features(image, 20.0, 20.0))
        rows = values.flatten(1).T.contiguous()
        found = apply(rows) / apply(torch.ones(len(rows), 1))
        wanted = between @ rows.numpy() / between.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found.numpy(), wanted, atol=tolerance)
        assert np.abs(found.numpy() - wanted).mean() < tolerance / 10

    def test_transposed_is_its_transpose(self, channels, exact_below, kind, tolerance):
        image = 80 * torch.rand(channels, 12, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        apply = bilateral(image, position_sigma=9.0, color_sigma=30.0, exact_below=exact_below)
        assert type(apply) is kind
        eye = torch.eye(180, dtype=torch.float64)
        torch.testing.assert_close(apply(eye).T, apply(eye, transposed=True))
        if kind is not Lattice:
            torch.testing.assert_close(apply(eye), apply(eye).T)

    def test_channels_do_not_mix(self, channels, exact_below, kind, tolerance):
        image = scene(16, 20, 4.0)[0].float().repeat(2, 1, 1)[:channels]
        apply = bilateral(image, position_sigma=9.0, color_sigma=20.0, exact_below=exact_below)
        assert type(apply) is kind
        values = torch.rand(320, 37, generator=torch.Generator().manual_seed(0))
        alone = torch.cat([apply(values[:, i : i + 1]) for i in range(37)], dim=1)
        torch.testing.assert_close(apply(values), alone)

    def test_gradients_are_those_of_finite_differences(self, channels, exact_below, kind, tolerance):
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.rand(*shape, dtype=torch.float64, generator=generator)

        images = 60 * random(2, channels, 5, 4)
        assert type(bilateral(images[0], position_sigma=4.0, color_sigma=40.0, exact_below=exact_below)) is kind
        inputs = [4 * random(2, 3, 5, 4), random(2, 3), random(3, 3)]
        assert torch.autograd.gradcheck(
            lambda logits, weights, pairs: mean_field(logits, images, weights, pairs, 3, [1.0, 4.0, 40.0], exact_below),
            [given.requires_grad_() for given in inputs],
            fast_mode=True,
        )


def test_a_narrow_gaussian_on_an_image_of_many_colours_takes_the_lattice():
    image = 255 * torch.rand(3, 72, 72, generator=torch.Generator().manual_seed(0))
    assert type(bilateral(image, position_sigma=3.0, color_sigma=3.0)) is Lattice


def test_deviations_too_small_for_the_lattice_are_refused():
    image = 255 * torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match=r"deviations this small.*\n.*raise crf\.color_sigma"):
        bilateral(image, position_sigma=0.001, color_sigma=0.01, exact_below=0)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_a_point_is_the_mean_of_the_corners_around_it(dimensions):
    points = 20 * torch.randn(500, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    corners, weights = simplices(points)
    assert (weights >= -1e-12).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(500, dtype=torch.float64))
    assert (corners.sum(dim=-1) == 0).all()
    assert (corners % (dimensions + 1) == torch.arange(dimensions + 1)[:, None]).all()
    # Distances are kept, up to the lattice's scale.
    at = (weights.unsqueeze(2) * corners).sum(dim=1) / ((dimensions + 1) * (2 / 3) ** 0.5)
    torch.testing.assert_close(torch.pdist(at), torch.pdist(points))


def test_torch_finds_the_operator_sound():
    image, given = scene(6, 7, 4.0)
    weights = torch.ones(2, 5, requires_grad=True)
    inputs = (given[None].log().requires_grad_(), image[None].float(), weights, potts(5).requires_grad_())
    torch.library.opcheck(mean_field, (*inputs, 2, [1.0, 4.0, 20.0], 0))


@pytest.mark.parametrize("exact_below", [4096, 0])
def test_an_edge_in_colour_is_found_again(exact_below):
    labels = torch.zeros(40, 48, dtype=torch.int64)
    labels[:, 23:] = 1
    labels[12:30, 8:20] = 2
    image = torch.tensor([[200, 60, 50], [40, 90, 180], [60, 160, 70]])[labels].permute(2, 0, 1)
    logits = torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1).float()
    logits += 1.5 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    given = logits.softmax(dim=0)
    found = refine(given[None], image[None].to(torch.uint8), iterations=10, exact_below=exact_below, **TRAINED)[0]
    assert (given.argmax(dim=0) == labels).float().mean() < 0.8
    assert (found.argmax(dim=0) == labels).float().mean() > 0.995


def test_no_iteration_changes_nothing():
    image, given = scene(16, 20, 4.0)
    torch.testing.assert_close(refine(given[None], image[None], iterations=0, **TRAINED)[0], given)


def test_certain_probabilities_stay_finite():
    image, given = scene(16, 20, 4.0)
    certain = torch.nn.functional.one_hot(given.argmax(dim=0), 5).permute(2, 0, 1).bfloat16()
    found = refine(certain[None], image[None], iterations=3, **TRAINED)
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 16, 20))


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
        plain = MODELS[name].build(classes=FIVE, encoder="test_resnet", weights="none", channels=16)
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
