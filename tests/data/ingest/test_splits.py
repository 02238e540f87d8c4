"""Splits by fraction: groups stay together, classes are spread, and without stratification nothing moves."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.ingest import splits
from pipelines.data.schema import SPLITS

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
some_labels = st.lists(st.frozensets(st.integers(0, 5)), min_size=1, max_size=60)


@given(some_labels, st.integers(1, 7), st.booleans())
def test_groups_never_straddle_a_split(labels, size, stratify):
    groups = [f"video {i // size}" for i in range(len(labels))]
    placed = splits.assign(groups, labels if stratify else None, FRACTIONS)
    where = {group: {s for g, s in zip(groups, placed, strict=True) if g == group} for group in groups}
    assert all(len(found) == 1 for found in where.values())


@given(some_labels, st.randoms(use_true_random=False))
def test_the_order_of_images_changes_nothing(labels, random):
    groups = [f"image {i}" for i in range(len(labels))]
    before = dict(zip(groups, splits.assign(groups, labels, FRACTIONS), strict=True))
    order = list(range(len(labels)))
    random.shuffle(order)
    placed = splits.assign([groups[i] for i in order], [labels[i] for i in order], FRACTIONS)
    assert {groups[i]: s for i, s in zip(order, placed, strict=True)} == before


def test_a_split_without_a_fraction_gets_nothing():
    labels = [frozenset({i % 3}) for i in range(50)]
    fractions = {"train": 3, "val": 0, "test": 1}
    for given_labels in (labels, None):
        placed = Counter(splits.assign([str(i) for i in range(50)], given_labels, fractions))
        assert placed["val"] == 0
        assert placed["train"] > placed["test"] > 0


@pytest.mark.parametrize("group", [1, 4])
def test_every_class_is_in_every_split_as_often_as_it_may_be(group):
    """Of a class with n images, a split of a tenth has n / 10, give or take a group; by chance alone, sqrt(n) more."""
    rng = np.random.default_rng(0)
    often = np.linspace(0.9, 0.03, 12)
    labels = [frozenset(np.flatnonzero(rng.random(12) < often).tolist()) for _ in range(1200)]
    groups = [str(i // group) for i in range(1200)]
    placed = splits.assign(groups, labels, FRACTIONS)
    for label in range(12):
        having = Counter(s for s, shown in zip(placed, labels, strict=True) if label in shown)
        for split in SPLITS:
            assert abs(having[split] - FRACTIONS[split] * having.total()) <= 1 + group + 0.06 * having.total()
            assert having[split] >= 1
    assert abs(Counter(placed)["test"] - 120) <= 12


def test_by_hash_an_image_stays_where_it_is():
    groups = [str(i) for i in range(500)]
    before = splits.assign(groups, None, FRACTIONS)
    after = splits.assign([*(f"new {i}" for i in range(100)), *groups], None, FRACTIONS)
    assert after[100:] == before
    assert {s: round(n / 500, 1) for s, n in Counter(before).items()} == FRACTIONS
