"""Against the papers' formulas, in exact fractions, on a split of four images that is written out here."""

import json
from fractions import Fraction
from statistics import median

import numpy as np
import pytest

from pipelines.data.schema import IGNORE, ClassInfo
from pipelines.validation import balance

# pixels of road, car, dog and an absent class in each image, and how many are ignored
IMAGES = [((90, 10, 0, 0), 0), ((60, 0, 0, 0), 40), ((80, 15, 5, 0), 0), ((0, 0, 0, 0), 100)]
NAMES = ("road", "car", "dog", "absent")
PIXELS = [sum(counts[k] for counts, _ in IMAGES) for k in range(4)]
SHOWN = [sum(counts[k] > 0 for counts, _ in IMAGES) for k in range(4)]
AROUND = [sum(sum(counts) for counts, _ in IMAGES if counts[k]) for k in range(4)]


@pytest.fixture
def tally() -> balance.Tally:
    made = balance.Tally(4)
    for counts, ignored in IMAGES:
        image = np.zeros(256, np.int64)
        image[:4], image[IGNORE] = counts, ignored
        made.add(image)
    return made


def test_the_tally_counts_pixels_images_and_what_lies_around(tally):
    assert tally.pixels.tolist() == PIXELS == [230, 25, 5, 0]
    assert tally.around.tolist() == AROUND == [260, 200, 100, 0]
    assert tally.shown.astype(int).tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]


def test_inverse_frequency(tally):
    expected = [float(Fraction(260, 3 * n)) if n else 0.0 for n in PIXELS]
    found = balance.inverse_frequency(tally.pixels)
    assert found == pytest.approx(expected, rel=1e-12)
    assert found @ tally.pixels / tally.pixels.sum() == pytest.approx(1)


def test_median_frequency(tally):
    frequency = [Fraction(p, a) for p, a in zip(PIXELS, AROUND, strict=True) if a]
    expected = [float(median(frequency) / f) for f in frequency] + [0.0]
    assert expected[1] == 1.0
    assert balance.median_frequency(tally.pixels, tally.around) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("beta", [Fraction(1, 2), Fraction(999, 1000)])
def test_effective_number(beta):
    images = [3, 2, 1, 0]
    weights = [(1 - beta) / (1 - beta**n) if n else Fraction(0) for n in images]
    expected = [float(w * 3 / sum(weights)) for w in weights]
    assert balance.effective_number(np.array(images), float(beta)) == pytest.approx(expected, rel=1e-9)


def test_effective_number_of_many_images_loses_no_digits():
    """1 - beta^n by floats alone would be 0 for the rare class."""
    weights = balance.effective_number(np.array([10**9, 1]), 1 - 1e-12)
    exact = [1e-12 / (1 - np.exp(-1e-3)), 1.0]
    assert weights == pytest.approx([2 * w / sum(exact) for w in exact], rel=1e-3)


def test_repeat_factors():
    """LVIS: max(1, sqrt(t / f))."""
    found = balance.repeat_factors(np.array([100, 25, 4, 1, 0]), 100, 0.25)
    assert found.tolist() == [1.0, 1.0, 2.5, 5.0, 1.0]


def test_an_image_repeats_by_its_rarest_class():
    shown = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 1]], bool)
    assert balance.images_by_factor(shown, np.array([1.0, 2.0, 5.0])) == [(1.0, 2), (2.0, 1), (5.0, 2)]
    random = np.random.default_rng(0)
    shown, factors = random.random((500, 9)) < 0.2, random.choice([1.0, 1.5, 3.0, 4.0], 9)
    largest = [max([1.0, *factors[row]]) for row in shown]
    assert balance.images_by_factor(shown, factors) == [(f, largest.count(f)) for f in sorted(set(largest))]


def test_the_file(tally):
    classes = tuple(ClassInfo(name=name, color=(0, 0, 0), isthing=False) for name in NAMES)
    said = balance.summarize(tally, classes, dataset="d4c3", repeat_threshold=0.9, effective_beta=0.5)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert (said["dataset"], said["images"], said["labelled_pixels"]) == ("d4c3", 4, 260)
    road, car, dog, absent = said["classes"]
    assert [row["name"] for row in said["classes"]] == list(NAMES)
    assert (car["pixels"], car["images"], car["pixel_frequency"], car["image_frequency"]) == (25, 2, 25 / 260, 0.5)
    assert absent["weights"] == dict.fromkeys(("inverse_frequency", "median_frequency", "effective_number"), 0.0)
    assert absent["repeat_factor"] == 1.0
    r = [max(1, (0.9 * 4 / n) ** 0.5) for n in SHOWN[:3]]
    assert [row["repeat_factor"] for row in (road, car, dog)] == pytest.approx(r)
    # Of its four images one shows nothing, one road alone, one road and car, one all three.
    by_factor = said["repeats"]["images_by_factor"]
    assert [(row["images"], row["factor"]) for row in by_factor] == [
        (1, 1.0),
        (1, pytest.approx(r[0])),
        (1, pytest.approx(r[1])),
        (1, pytest.approx(r[2])),
    ]
    assert said["repeats"]["images_per_epoch"] == pytest.approx(1 + sum(r))


def test_no_training_image_gives_no_infinity():
    classes = (ClassInfo(name="road", color=(0, 0, 0), isthing=False),)
    for some in (classes, ()):
        said = balance.summarize(
            balance.Tally(len(some)), some, dataset="", repeat_threshold=0.001, effective_beta=0.999
        )
        assert json.dumps(said, allow_nan=False)
        assert said["repeats"] == {"images_by_factor": [], "images_per_epoch": 0.0}
