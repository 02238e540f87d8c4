"""Every loss against a formula of its own in float64, and gradients against finite differences of that formula."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines import config, losses
from pipelines.config.loss import SemanticLoss
from pipelines.data.schema import IGNORE
from pipelines.losses.lovasz import gradient
from pipelines.targets import Targets

OPTIONS = [
    pytest.param("cross_entropy", {"label_smoothing": 0.0}, id="cross_entropy"),
    pytest.param("cross_entropy", {"label_smoothing": 0.2}, id="cross_entropy-smoothed"),
    pytest.param("binary_cross_entropy", {}, id="binary_cross_entropy"),
    pytest.param("border_cross_entropy", {"border_weight": 10.0, "sigma": 5.0}, id="border_cross_entropy"),
    pytest.param("ohem", {"threshold": 0.3, "min_kept": 0.2}, id="ohem"),
    pytest.param("ohem", {"threshold": 0.01, "min_kept": 0.3}, id="ohem-few"),
    pytest.param("focal", {"gamma": 2.0}, id="focal"),
    pytest.param("focal", {"gamma": 0.5}, id="focal-0.5"),
    pytest.param("dice", {"squared": False}, id="dice"),
    pytest.param("dice", {"squared": True}, id="dice-squared"),
    pytest.param("generalized_dice", {}, id="generalized_dice"),
    pytest.param("jaccard", {}, id="jaccard"),
    pytest.param("lovasz", {}, id="lovasz"),
    pytest.param("tversky", {"alpha": 0.3, "beta": 0.7}, id="tversky"),
    pytest.param("tversky", {"alpha": 0.5, "beta": 0.0}, id="tversky-positives"),
    pytest.param("focal_tversky", {"alpha": 0.3, "beta": 0.7, "gamma": 0.75}, id="focal_tversky"),
    pytest.param("focal_tversky", {"alpha": 0.3, "beta": 0.7, "gamma": 2.0}, id="focal_tversky-2"),
]
OF_PIXELS = ("cross_entropy", "binary_cross_entropy", "border_cross_entropy", "ohem", "focal")
WEIGHED = [p for p in OPTIONS if p.values[0] in OF_PIXELS]
WEIGHTS = [0.3, 2.0, 0.0, 1.7]
PARAMS = config.get(config.read(Path(__file__).parents[2] / "params.yaml"), "loss.semantic")


class Pixels:
    """The labelled pixels of a batch in float64: logits and p[n, c], labels y[n], border[n], what each class weighs."""

    def __init__(self, logits: np.ndarray, labels: np.ndarray, border: np.ndarray, weights: list[float] | None):
        known = labels.ravel() != IGNORE
        self.logits = np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1])[known]
        exp = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        self.p, self.y = exp / exp.sum(axis=1, keepdims=True), labels.ravel()[known]
        self.true = self.p[np.arange(len(self.y)), self.y]
        self.border = border.ravel()[known].astype(np.float64)
        self.classes = np.ones(self.p.shape[1]) if weights is None else np.array(weights)
        self.weights = self.classes[self.y]

    def mean(self, values: np.ndarray) -> float:
        return float((self.weights * values).sum() / self.weights.sum())

    def per_class(self, score: Callable[[np.ndarray, np.ndarray], float]) -> float:
        """The mean of score(p[n], truth[n]) over the classes that occur."""
        return float(np.mean([score(self.p[:, c], self.y == c) for c in np.unique(self.y)]))


def cross_entropy(pixels: Pixels, label_smoothing: float) -> float:
    wanted = np.full(pixels.p.shape, label_smoothing / pixels.p.shape[1])
    wanted[np.arange(len(pixels.y)), pixels.y] += 1 - label_smoothing
    return float(-(wanted * pixels.classes * np.log(pixels.p)).sum() / pixels.weights.sum())


def binary_cross_entropy(pixels: Pixels) -> float:
    truth = pixels.y[:, None] == np.arange(pixels.p.shape[1])
    sigmoid = 1 / (1 + np.exp(-pixels.logits))
    return pixels.mean(-np.log(np.where(truth, sigmoid, 1 - sigmoid)).mean(axis=1))


def border_cross_entropy(pixels: Pixels, border_weight: float, sigma: float) -> float:
    return pixels.mean(-pixels.border * np.log(pixels.true))


def ohem(pixels: Pixels, threshold: float, min_kept: float) -> float:
    least = int(np.ceil(min_kept * len(pixels.y)))
    kept = pixels.true <= max(np.sort(pixels.true)[least - 1], np.nextafter(threshold, 0))
    return float(-(pixels.weights * np.log(pixels.true))[kept].sum() / pixels.weights[kept].sum())


def focal(pixels: Pixels, gamma: float) -> float:
    return pixels.mean(-((1 - pixels.true) ** gamma) * np.log(pixels.true))


def dice(pixels: Pixels, squared: bool) -> float:
    power = 2 if squared else 1
    return 1 - pixels.per_class(lambda p, g: 2 * p[g].sum() / ((p**power).sum() + g.sum()))


def generalized_dice(pixels: Pixels) -> float:
    above = below = 0.0
    for c in np.unique(pixels.y):
        p, g = pixels.p[:, c], pixels.y == c
        above += p[g].sum() / g.sum() ** 2
        below += (p.sum() + g.sum()) / g.sum() ** 2
    return float(1 - 2 * above / below)


def jaccard(pixels: Pixels) -> float:
    return 1 - pixels.per_class(lambda p, g: p[g].sum() / (p + g - p * g).sum())


def jaccard_of(wrong: np.ndarray, truth: np.ndarray) -> float:
    """The Jaccard loss of a set of wrong pixels, as the paper has it: |wrong| / |truth or wrong|."""
    return float(wrong.sum() / (truth | wrong).sum())


def lovasz(pixels: Pixels) -> float:
    """The extension by its other definition: the integral over t in 0..1 of the loss of the errors that are t or more.
    It is constant between two errors, so that the integral is a sum."""

    def extension(p: np.ndarray, g: np.ndarray) -> float:
        errors = np.abs(g - p)
        steps = np.unique([0.0, *errors])
        return sum((high - low) * jaccard_of(errors >= high, g) for low, high in pairwise(steps))

    return pixels.per_class(extension)


def tversky_index(p: np.ndarray, g: np.ndarray, alpha: float, beta: float) -> float:
    return float(p[g].sum() / (p[g].sum() + alpha * p[~g].sum() + beta * (1 - p[g]).sum()))


def tversky(pixels: Pixels, alpha: float, beta: float) -> float:
    return 1 - pixels.per_class(lambda p, g: tversky_index(p, g, alpha, beta))


def focal_tversky(pixels: Pixels, alpha: float, beta: float, gamma: float) -> float:
    return pixels.per_class(lambda p, g: (1 - tversky_index(p, g, alpha, beta)) ** gamma)


ORACLES: dict[str, Callable[..., float]] = {
    f.__name__: f
    for f in (
        cross_entropy, binary_cross_entropy, border_cross_entropy, ohem, focal, dice, generalized_dice, jaccard,
        lovasz, tversky, focal_tversky,
    )
}  # fmt: skip


def differences(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """The gradient by central differences."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        there = at.copy()
        there[index] = at[index] + step
        high = function(there)
        there[index] = at[index] - step
        gradient[index] = (high - function(there)) / (2 * step)
    return gradient


def example(seed: int = 0, classes: int = 4) -> tuple[Tensor, Targets]:
    """Logits of 4 classes, one of which does not occur, and some ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 3, 4, generator=generator)
    labels = torch.randint(0, classes - 1, (2, 3, 4), generator=generator)
    labels[0, 0, :2] = IGNORE
    border = 1 + 10 * torch.rand(2, 3, 4, generator=generator)
    return logits.requires_grad_(), Targets(semantic=labels, border=border, instances=[])


def ignored(targets: Targets) -> Targets:
    return Targets(semantic=torch.full_like(targets.semantic, IGNORE), border=targets.border, instances=[])


def one(name: str, options: dict[str, Any], weights: list[float] | None = None) -> losses.WeightedSum:
    scheme = {} if weights is None else {"class_weights": "inverse_frequency"}
    return losses.build({name: {"weight": 1.0, **scheme, **options}}, weights and {"inverse_frequency": weights})


def assert_as_the_formula(
    name: str, options: dict[str, Any], logits: Tensor, targets: Targets, weights: list[float] | None = None
) -> None:
    assert targets.border is not None
    loss = one(name, options, weights)(logits, targets)
    loss.backward()
    labels, border = targets.semantic.numpy(), targets.border.numpy()

    def oracle(at: np.ndarray) -> float:
        return ORACLES[name](Pixels(at, labels, border, weights), **options)

    at = logits.detach().double().numpy()
    assert loss.item() == pytest.approx(oracle(at), rel=1e-5)
    np.testing.assert_allclose(logits.grad.numpy(), differences(oracle, at), atol=1e-5)


def test_the_table_and_the_parameters_name_the_same_losses():
    assert set(losses.LOSSES) == set(SemanticLoss.model_fields) == set(ORACLES)


def test_the_losses_that_can_weigh_classes_are_those_of_each_pixel():
    weighable = {n for n, loss in PARAMS.items() if "class_weights" in loss}
    assert weighable == set(OF_PIXELS)


def test_every_loss_takes_its_options_of_params_yaml():
    logits, targets = example()
    for name, options in PARAMS.items():
        assert losses.build({name: {**options, "weight": 2.0}})(logits, targets) > 0


@pytest.mark.parametrize(("name", "options"), OPTIONS)
class TestEveryLoss:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_value_and_gradient_are_those_of_the_formula(self, name, options, seed):
        assert_as_the_formula(name, options, *example(seed))

    def test_ignored_pixels_do_not_count(self, name, options):
        logits, targets = example()
        out = targets.semantic == IGNORE
        changed = torch.where(out.unsqueeze(1), 50.0, logits.detach()).requires_grad_()
        before, after = one(name, options)(logits, targets), one(name, options)(changed, targets)
        after.backward()
        assert before.item() == after.item()
        assert not changed.grad.movedim(1, -1)[out].any()

    def test_a_batch_without_a_label_is_0_with_gradients_of_0(self, name, options):
        logits, targets = example()
        loss = one(name, options)(logits, ignored(targets))
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()

    @pytest.mark.parametrize("size", [1e4, -1e4])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_extreme_logits_stay_finite(self, name, options, size, dtype):
        _, targets = example()
        logits = torch.zeros(2, 4, 3, 4, dtype=dtype)
        logits[:, 0], logits[:, 1] = size, -size
        logits.requires_grad_()
        loss = one(name, options)(logits, targets)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()

    def test_the_right_answer_of_a_certain_model_is_finite_and_next_to_0(self, name, options):
        """Where powers are steep and sums of exactly nothing are divided by."""
        _, targets = example()
        logits = certain(targets, 1e4)
        loss = one(name, options)(logits, targets)
        loss.backward()
        assert loss.isfinite()
        assert 0 <= loss.item() < 1e-5 or options.get("label_smoothing"), "smoothing wants no certainty"
        assert logits.grad.isfinite().all()

    def test_bfloat16_logits_are_computed_in_float32(self, name, options):
        logits, targets = example()
        coarse = logits.detach().bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = one(name, options)(coarse, targets)
        assert loss.dtype == torch.float32
        assert loss.item() == one(name, options)(coarse.float(), targets).item()

    def test_right_is_better_than_undecided_and_wrong_is_worse(self, name, options):
        _, targets = example()
        right = certain(targets, 3.0).detach()
        loss = one(name, options)
        assert loss(right, targets) < loss(right * 0, targets) < loss(right.roll(1, dims=1), targets)


def certain(targets: Targets, size: float) -> Tensor:
    labels = targets.semantic
    wanted = torch.nn.functional.one_hot(labels.where(labels != IGNORE, 0), 4).movedim(-1, 1).float()
    return (size * (2 * wanted - 1)).requires_grad_()


@pytest.mark.parametrize(("name", "options"), WEIGHED)
class TestClassWeights:
    def test_value_and_gradient_are_those_of_the_formula(self, name, options):
        assert_as_the_formula(name, options, *example(), weights=WEIGHTS)

    def test_their_scale_plays_no_part(self, name, options):
        logits, targets = example()
        large = one(name, options, [1e4 * w for w in WEIGHTS])(logits, targets)
        assert large.item() == pytest.approx(one(name, options, WEIGHTS)(logits, targets).item(), rel=1e-6)

    def test_equal_ones_are_none(self, name, options):
        logits, targets = example()
        same = one(name, options, [1.0] * 4)(logits, targets)
        assert same.item() == pytest.approx(one(name, options)(logits, targets).item(), rel=1e-6)

    def test_a_batch_that_weighs_nothing_is_0_with_gradients_of_0(self, name, options):
        logits, targets = example()
        for made, weights in ((ignored(targets), WEIGHTS), (targets, [0.0, 0.0, 0.0, 5.0])):
            logits.grad = None
            loss = one(name, options, weights)(logits, made)
            loss.backward()
            assert loss.item() == 0
            assert not logits.grad.any()


def test_dice_leaves_absent_classes_out_of_the_mean():
    targets = Targets(semantic=torch.zeros(1, 2, 2, dtype=torch.int64), instances=[])
    logits = torch.zeros(1, 3, 2, 2)  # a third of each pixel: 2 * 4/3 / (4/3 + 4) = 1/2 for the one class there is
    assert one("dice", {"squared": False})(logits, targets).item() == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["dice", "generalized_dice", "jaccard", "lovasz", "tversky"])
def test_regions_are_of_the_batch_not_of_each_image(name):
    options = next(p.values[1] for p in OPTIONS if p.values[0] == name)
    labels = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).long()
    logits = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    wide = torch.cat([*logits], dim=-1)[None], Targets(semantic=torch.cat([*labels], dim=-1)[None], instances=[])
    beside = one(name, options)(logits, Targets(semantic=labels, instances=[]))
    assert beside.item() == pytest.approx(one(name, options)(*wide).item())


def test_focal_without_focus_is_cross_entropy():
    logits, targets = example()
    plain = one("cross_entropy", {"label_smoothing": 0.0})(logits, targets)
    assert one("focal", {"gamma": 0.0})(logits, targets).item() == pytest.approx(plain.item(), rel=1e-6)


def test_focal_has_a_gradient_where_the_model_is_certain_and_the_power_steep():
    logits = torch.tensor([200.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    truth = Targets(semantic=torch.zeros(1, 1, 1, dtype=torch.int64), instances=[])
    one("focal", {"gamma": 0.25})(logits, truth).backward()
    assert logits.grad.isfinite().all()


def test_tversky_s_halves_are_dice_and_its_wholes_jaccard():
    logits, targets = example()
    half, whole = (one("tversky", {"alpha": w, "beta": w})(logits, targets).item() for w in (0.5, 1.0))
    assert half == pytest.approx(one("dice", {"squared": False})(logits, targets).item(), rel=1e-6)
    assert whole == pytest.approx(one("jaccard", {})(logits, targets).item(), rel=1e-6)


def test_ohem_keeps_the_hard_and_at_least_so_many():
    """Ten pixels of known probability: under the threshold are three; of half of them, five; what ties is kept too."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.5, 0.6, 0.6, 0.7, 0.8, 0.9, 0.95])
    logits = torch.stack([p, 1 - p]).log().view(1, 2, 1, 10)
    targets = Targets(semantic=torch.zeros(1, 1, 10, dtype=torch.int64), instances=[])
    for least, kept in ((0.1, 3), (0.3, 3), (0.35, 4), (0.5, 6), (1.0, 10)):
        loss = one("ohem", {"threshold": 0.4, "min_kept": least})(logits, targets)
        assert loss.item() == pytest.approx(-p[:kept].log().mean().item(), rel=1e-5)


def test_lovasz_of_hard_predictions_is_the_jaccard_loss_itself():
    _, targets = example()
    guess = torch.randint(0, 3, targets.semantic.shape, generator=torch.Generator().manual_seed(3))
    logits = 1e4 * torch.nn.functional.one_hot(guess, 4).movedim(-1, 1).float()
    known = (targets.semantic != IGNORE).numpy()
    said, truth = guess.numpy()[known], targets.semantic.numpy()[known]
    wanted = np.mean([jaccard_of((said == c) != (truth == c), truth == c) for c in np.unique(truth)])
    assert one("lovasz", {})(logits, targets).item() == pytest.approx(wanted, rel=1e-6)


def test_lovasz_gradients_are_exact_in_a_large_batch():
    """A million pixels: what one of them adds to the union is a difference of losses that float32 cannot hold."""
    random = np.random.default_rng(0)
    errors, truth = random.permutation(1 << 20) / (1 << 20), random.random(1 << 20) < 0.3
    found = gradient(torch.from_numpy(errors).float(), torch.from_numpy(truth)).numpy()
    own = truth[np.argsort(-errors)]
    inside, union = own.sum() - np.cumsum(own, dtype=np.float64), own.sum() + np.cumsum(~own, dtype=np.float64)
    wanted = np.diff(1 - inside / union, prepend=0.0)
    np.testing.assert_allclose(found[np.argsort(-errors)], wanted, rtol=1e-5, atol=1e-15)


def test_a_border_loss_without_a_border_says_what_to_do():
    logits, targets = example()
    with pytest.raises(ValueError, match=r"needs targets\.border"):
        one("border_cross_entropy", {})(logits, Targets(semantic=targets.semantic, instances=[]))


def test_the_sum_is_weighted():
    """BCE + Dice and Dice + focal are such sums."""
    logits, targets = example()
    parts = {"cross_entropy": {"label_smoothing": 0.1}, "dice": {"squared": False}, "focal": {"gamma": 2.0}}
    weights = {"cross_entropy": 1.0, "dice": 0.5, "focal": 3.0}
    total = losses.build({name: {"weight": weights[name], **options} for name, options in parts.items()})
    alone = sum(weights[name] * one(name, options)(logits, targets).item() for name, options in parts.items())
    assert total(logits, targets).item() == pytest.approx(alone, rel=1e-6)


def test_each_term_has_the_weights_of_its_own_scheme():
    logits, targets = example()
    given = {"inverse_frequency": WEIGHTS, "effective_number": [1.0, 3.0, 1.0, 1.0], "median_frequency": [9.0] * 4}
    total = losses.build(
        {
            "cross_entropy": {"weight": 1.0, "class_weights": "effective_number", "label_smoothing": 0.0},
            "focal": {"weight": 2.0, "class_weights": "inverse_frequency", "gamma": 2.0},
            "ohem": {"weight": 1.0, "class_weights": "none", "threshold": 0.5, "min_kept": 0.1},
        },
        given,
    )
    alone = (
        one("cross_entropy", {"label_smoothing": 0.0}, given["effective_number"])(logits, targets)
        + 2 * one("focal", {"gamma": 2.0}, WEIGHTS)(logits, targets)
        + one("ohem", {"threshold": 0.5, "min_kept": 0.1})(logits, targets)
    )
    assert total(logits, targets).item() == pytest.approx(alone.item(), rel=1e-6)


def test_class_weights_go_with_the_module_and_into_no_checkpoint():
    loss = one("focal", {"gamma": 2.0}, WEIGHTS)
    assert not loss.state_dict()
    assert [b.device.type for b in nn.ModuleList([loss]).to("meta").buffers()] == ["meta"]


def test_class_weights_that_are_not_given_are_missed():
    with pytest.raises(ValueError, match="takes the class weights median_frequency"):
        losses.build({"focal": {"weight": 1.0, "class_weights": "median_frequency", "gamma": 2.0}}, {})


def test_a_sum_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        losses.build({})
