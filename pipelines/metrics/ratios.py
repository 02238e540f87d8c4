"""Ratios and means of which not every class has one: NaN is undefined, and left out of what is made of it."""

import numpy as np


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    result = np.full(np.shape(part), np.nan)
    np.divide(part, whole, out=result, where=np.asarray(whole) > 0)
    return result


def mean(values: np.ndarray) -> np.ndarray:
    """[..., n] -> [...]: of the defined values."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def plain(value: np.ndarray | float) -> float | None:
    """As JSON has it."""
    return None if np.isnan(value) else float(value)
