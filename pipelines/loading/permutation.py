"""A shuffle without a list: any place of the order by itself, in constant memory, for any number of samples.

A Feistel network permutes the smallest power of two that holds all samples; what falls outside the samples goes through
again until it falls inside (cycle walking), on average less than once.
"""

from collections.abc import Sequence

import numpy as np

ROUNDS = 10
# The finaliser of SplitMix64: every bit of what goes in flips half of the bits that come out.
MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Permutation:
    """Of range(samples), a function of `key` alone."""

    def __init__(self, samples: int, key: Sequence[int]):
        self.samples = samples
        bits = max((samples - 1).bit_length(), 2)
        self.low, self.high = np.uint64(bits // 2), np.uint64(bits - bits // 2)
        self.keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """int64[n] -> int64[n]."""
        values = self._network(places.astype(np.uint64))
        while (outside := np.flatnonzero(values >= self.samples)).size:
            values[outside] = self._network(values[outside])
        return values.astype(np.int64)

    def _network(self, values: np.ndarray) -> np.ndarray:
        """The halves change their places each round, and with them, where they differ, their sizes."""
        low, high = self.low, self.high
        for key in self.keys:
            right = values & ((np.uint64(1) << low) - np.uint64(1))
            left = (values >> low) ^ (_mix(right ^ key) >> (np.uint64(64) - high))
            values = (right << high) | left
            low, high = high, low
        return values


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * MIX[0]
    values = (values ^ (values >> np.uint64(27))) * MIX[1]
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed
