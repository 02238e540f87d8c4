"""Every loss against a formula of its own in float64, and gradients against finite differences of that formula."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from pipelines import config, losses
from pipelines.data.schema import IGNORE

OPTIONS = [
    pytest.param("cross_entropy", {"label_smoothing": 0.0}, id="cross_entropy"),
    pytest.param("cross_entropy", {"label_smoothing": 0.2}, id="cross_entropy-smoothed"),
    pytest.param("dice", {}, id="dice"),
    pytest.param("focal", {"gamma": 2.0}, id="focal"),
    pytest.param("focal", {"gamma": 0.5}, id="focal-0.5"),
]


def labelled(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities[n, c] and labels[n] of the pixels that are not ignored."""
    rows = np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1])[labels.ravel() != IGNORE]
    exp = np.exp(rows - rows.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True), labels.ravel()[labels.ravel() != IGNORE]


def cross_entropy(logits: np.ndarray, labels: np.ndarray, label_smoothing: float) -> float:
    p, y = labelled(logits, labels)
    wanted = np.full(p.shape, label_smoothing / p.shape[1])
    wanted[np.arange(len(y)), y] += 1 - label_smoothing
    return float(-(wanted * np.log(p)).sum(axis=1).mean())


def focal(logits: np.ndarray, labels: np.ndarray, gamma: float) -> float:
    p, y = labelled(logits, labels)
    true = p[np.arange(len(y)), y]
    return float(-((1 - true) ** gamma * np.log(true)).mean())


def dice(logits: np.ndarray, labels: np.ndarray) -> float:
    p, y = labelled(logits, labels)
    scores = [2 * p[y == c, c].sum() / (p[:, c].sum() + (y == c).sum()) for c in np.unique(y)]
    return float(1 - np.mean(scores))


ORACLES: dict[str, Callable[..., float]] = {"cross_entropy": cross_entropy, "dice": dice, "focal": focal}


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


def example(seed: int = 0, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of 4 classes, one of which does not occur, and some ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 3, 4, generator=generator)
    labels = torch.randint(0, classes - 1, (2, 3, 4), generator=generator)
    labels[0, 0, :2] = IGNORE
    return logits.requires_grad_(), labels


def one(name: str, options: dict[str, float]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return losses.build({name: {"weight": 1.0, **options}})


def test_the_table_and_the_parameters_name_the_same_losses():
    assert set(losses.LOSSES) == set(config.SemanticLoss.model_fields)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
class TestEveryLoss:
    def test_value_and_gradient_are_those_of_the_formula(self, name, options):
        logits, labels = example()
        loss = one(name, options)(logits, labels)
        loss.backward()
        oracle = partial(ORACLES[name], labels=labels.numpy(), **options)
        at = logits.detach().double().numpy()
        assert loss.item() == pytest.approx(oracle(at), rel=1e-5)
        np.testing.assert_allclose(logits.grad.numpy(), differences(oracle, at), atol=1e-5)

    def test_ignored_pixels_do_not_count(self, name, options):
        logits, labels = example()
        changed = torch.where((labels == IGNORE).unsqueeze(1), 50.0, logits.detach()).requires_grad_()
        before, after = one(name, options)(logits, labels), one(name, options)(changed, labels)
        after.backward()
        assert before.item() == after.item()
        assert not changed.grad.movedim(1, -1)[labels == IGNORE].any()

    def test_a_batch_without_a_label_is_0_with_gradients_of_0(self, name, options):
        logits, labels = example()
        loss = one(name, options)(logits, torch.full_like(labels, IGNORE))
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()

    @pytest.mark.parametrize("size", [1e4, -1e4])
    def test_extreme_logits_stay_finite(self, name, options, size):
        _, labels = example()
        logits = torch.zeros(2, 4, 3, 4)
        logits[:, 0], logits[:, 1] = size, -size
        logits.requires_grad_()
        loss = one(name, options)(logits, labels)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()

    def test_bfloat16_logits_are_computed_in_float32(self, name, options):
        logits, labels = example()
        coarse = logits.detach().bfloat16()
        loss = one(name, options)(coarse, labels)
        assert loss.dtype == torch.float32
        assert loss.item() == one(name, options)(coarse.float(), labels).item()

    def test_right_is_better_than_undecided_and_wrong_is_worse(self, name, options):
        _, labels = example()
        right = 3 * torch.nn.functional.one_hot(labels.where(labels != IGNORE, 0), 4).movedim(-1, 1).float()
        loss = one(name, options)
        assert loss(right, labels) < loss(right * 0, labels) < loss(right.roll(1, dims=1), labels)


def test_dice_leaves_absent_classes_out_of_the_mean():
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    logits = torch.zeros(1, 3, 2, 2)  # a third of each pixel: 2 * 4/3 / (4/3 + 4) = 1/2 for the one class there is
    assert one("dice", {})(logits, labels).item() == pytest.approx(0.5)


def test_dice_counts_over_the_batch_not_per_image():
    labels = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).long()
    logits = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    wide = one("dice", {})(torch.cat([*logits], dim=-1)[None], torch.cat([*labels], dim=-1)[None])
    assert one("dice", {})(logits, labels).item() == pytest.approx(wide.item())


def test_focal_without_focus_is_cross_entropy():
    logits, labels = example()
    plain = one("cross_entropy", {"label_smoothing": 0.0})(logits, labels)
    assert one("focal", {"gamma": 0.0})(logits, labels).item() == pytest.approx(plain.item(), rel=1e-6)


def test_focal_has_a_gradient_where_the_model_is_certain_and_the_power_steep():
    logits = torch.tensor([200.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    one("focal", {"gamma": 0.25})(logits, torch.zeros(1, 1, 1, dtype=torch.int64)).backward()
    assert logits.grad.isfinite().all()


def test_the_sum_is_weighted():
    logits, labels = example()
    parts = {"cross_entropy": {"label_smoothing": 0.1}, "dice": {}, "focal": {"gamma": 2.0}}
    weights = {"cross_entropy": 1.0, "dice": 0.5, "focal": 3.0}
    total = losses.build({name: {"weight": weights[name], **options} for name, options in parts.items()})
    alone = sum(weights[name] * one(name, options)(logits, labels).item() for name, options in parts.items())
    assert total(logits, labels).item() == pytest.approx(alone, rel=1e-6)


def test_a_sum_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        losses.build({})
