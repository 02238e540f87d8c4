"""Checkpoints: whole or absent, and the one before to fall back on."""

import json
import tempfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.checkpoint import Checkpoints


def state(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "model": {"weight": torch.full((50,), float(epoch))}, "history": [{"loss": 0.5}]}


def filled(folder: Path, scores: list[float]) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for epoch, score in enumerate(scores):
        checkpoints.save(epoch, score, state(epoch))
    return checkpoints


def kept(checkpoints: Checkpoints) -> list[int]:
    return [entry.epoch for entry in checkpoints.entries()]


def test_a_state_comes_back_as_it_was(tmp_path):
    last = filled(tmp_path, [0.1, 0.2]).last()
    assert last is not None
    assert torch.equal(last["model"]["weight"], state(1)["model"]["weight"])
    assert (last["epoch"], last["history"]) == (1, [{"loss": 0.5}])


def test_without_any_there_is_none(tmp_path):
    checkpoints = Checkpoints(tmp_path / "absent")
    assert (checkpoints.last(), checkpoints.best(), checkpoints.entries()) == (None, None, [])


@pytest.mark.parametrize(
    ("scores", "left"),
    [
        ([0.1], [0]),
        ([0.1, 0.2, 0.3, 0.4], [2, 3]),
        ([0.9, 0.2, 0.3, 0.4], [0, 2, 3]),
        ([0.1, 0.9, 0.9, 0.9, 0.4], [1, 3, 4]),  # of equals the earlier is the best
        ([0.0, 0.0, 0.0, 0.0], [0, 2, 3]),
        ([-1.0, -2.0, -3.0, -4.0], [0, 2, 3]),
    ],
)
def test_the_best_the_last_and_the_one_before_are_kept(tmp_path, scores, left):
    checkpoints = filled(tmp_path, scores)
    assert kept(checkpoints) == left
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"epoch-{epoch:04d}" for epoch in left]
    assert checkpoints.best()["epoch"] == scores.index(max(scores))
    assert checkpoints.last()["epoch"] == len(scores) - 1


def test_epochs_are_ordered_as_numbers(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for epoch in (9998, 9999, 10000, 10001):
        checkpoints.save(epoch, 0.1 * (epoch == 9998), state(epoch))
    assert kept(checkpoints) == [9998, 10000, 10001]
    assert checkpoints.last()["epoch"] == 10001


def flip(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped bit": lambda folder: flip(folder / "state.pt"),
    "truncated": lambda folder: (folder / "state.pt").write_bytes((folder / "state.pt").read_bytes()[:-100]),
    "no state": lambda folder: (folder / "state.pt").unlink(),
    "empty state": lambda folder: (folder / "state.pt").write_bytes(b""),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "torn manifest": lambda folder: (folder / "manifest.json").write_text('{"epoch": 2, "sco'),
    "list for a manifest": lambda folder: (folder / "manifest.json").write_text("[2]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_one_is_passed_over(tmp_path, damage, caplog):
    checkpoints = filled(tmp_path, [0.3, 0.1, 0.2, 0.9])
    damage(tmp_path / "epoch-0003")
    assert checkpoints.last()["epoch"] == 2
    assert "epoch-0003" in caplog.text
    assert checkpoints.best()["epoch"] == 2
    damage(tmp_path / "epoch-0002")
    assert checkpoints.last() is None, "none is whole: the best is the last, and the others were pruned"
    checkpoints.save(3, 0.5, state(3))
    assert checkpoints.last()["epoch"] == checkpoints.best()["epoch"] == 3


@given(st.floats(0, 1), st.integers(0, 7))
def test_a_flipped_bit_anywhere_in_a_manifest_changes_nothing_or_rules_it_out(at, bit):
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = filled(Path(folder), [0.1, 0.5])
        path = Path(folder) / "epoch-0001" / "manifest.json"
        whole = path.read_bytes()
        data = bytearray(whole)
        data[int(at * (len(data) - 1))] ^= 1 << bit
        path.write_bytes(data)
        try:
            same = json.loads(data) == json.loads(whole)
        except ValueError:
            same = False
        assert kept(checkpoints) == ([0, 1] if same else [0])


class Unwritable:
    def __reduce__(self) -> Any:
        raise OSError("No space left on device")


def test_a_save_that_dies_leaves_the_others_and_can_be_done_again(tmp_path):
    checkpoints = filled(tmp_path, [0.1, 0.2])
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, 0.9, {**state(2), "more": [torch.zeros(1000), Unwritable()]})
    assert kept(checkpoints) == [0, 1]
    assert checkpoints.last()["epoch"] == checkpoints.best()["epoch"] == 1
    checkpoints.save(2, 0.9, state(2))
    assert kept(checkpoints) == [1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-0001", "epoch-0002"]


def test_an_epoch_that_is_saved_again_replaces_its_first_save(tmp_path):
    checkpoints = filled(tmp_path, [0.1, 0.2])
    checkpoints.save(1, 0.7, {**state(1), "again": 1})
    assert checkpoints.last()["again"] == 1
    assert [entry.score for entry in checkpoints.entries()] == [0.1, 0.7]


def test_nothing_but_plain_values_is_loaded(tmp_path):
    """A pickle that does more than build tensors is refused, whatever its hash."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, 0.1, {"path": tmp_path})
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        checkpoints.last()
