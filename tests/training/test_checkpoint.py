"""Checkpoints: whole or absent, and the one before to fall back on."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import RunError
from pipelines.training.checkpoint import Checkpoints, Writer

STEPS = 10  # of an epoch


def state(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "model": {"weight": torch.full((50,), float(epoch))}, "rows": [{"loss": 0.5}]}


def filled(folder: Path, epochs: int, keep: Collection[int] = ()) -> Checkpoints:
    """Of the ends of so many epochs, pruned after each."""
    checkpoints = Checkpoints(folder)
    for epoch in range(epochs):
        checkpoints.save(state(epoch), step=(epoch + 1) * STEPS, epoch=epoch)
        checkpoints.prune(keep)
    return checkpoints


def kept(checkpoints: Checkpoints) -> list[int]:
    return [entry.step // STEPS - 1 for entry in checkpoints.entries()]


def name(epoch: int) -> str:
    return f"step-{(epoch + 1) * STEPS:08d}"


def test_a_state_comes_back_as_it_was(tmp_path):
    last = filled(tmp_path, 2).last()
    assert last is not None
    assert torch.equal(last["model"]["weight"], state(1)["model"]["weight"])
    assert (last["epoch"], last["rows"]) == (1, [{"loss": 0.5}])


def test_without_any_there_is_none(tmp_path):
    checkpoints = Checkpoints(tmp_path / "absent")
    assert (checkpoints.last(), checkpoints.best({0: 1.0}), checkpoints.entries()) == (None, None, [])


@pytest.mark.parametrize(
    ("epochs", "keep", "left"), [(1, (), [0]), (4, (), [2, 3]), (4, (0,), [0, 2, 3]), (5, (1, 2), [1, 2, 3, 4])]
)
def test_the_last_the_one_before_and_what_is_asked_for_are_kept(tmp_path, epochs, keep, left):
    checkpoints = filled(tmp_path, epochs, keep)
    assert kept(checkpoints) == left
    assert sorted(p.name for p in tmp_path.iterdir()) == [name(epoch) for epoch in left]
    assert checkpoints.last()["epoch"] == epochs - 1


@pytest.mark.parametrize(
    ("scores", "best"),
    [({0: 0.1, 1: 0.9, 2: 0.3}, 1), ({0: 0.9, 1: 0.9}, 0), ({0: -2.0, 2: -1.0}, 2), ({}, None), ({7: 1.0}, None)],
)
def test_the_best_is_the_earlier_one_of_equals_and_one_that_has_a_score(tmp_path, scores, best):
    found = filled(tmp_path, 3, range(3)).best(scores)
    assert (found and found["epoch"]) == best


def test_one_within_an_epoch_is_the_last_and_never_the_best(tmp_path):
    checkpoints = filled(tmp_path, 2, range(2))
    checkpoints.save({"epoch": "half"}, step=25)
    assert checkpoints.last()["epoch"] == "half"
    assert checkpoints.last(20)["epoch"] == 1
    assert checkpoints.last(21) is None
    assert checkpoints.best({0: 0.1, 1: 0.2, 2: 0.3})["epoch"] == 1
    assert checkpoints.of_epoch(0)["epoch"] == 0


def test_steps_are_ordered_as_numbers(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (99_999_998, 99_999_999, 100_000_000, 100_000_001):
        checkpoints.save({"step": step}, step=step)
    checkpoints.prune(())
    assert [entry.step for entry in checkpoints.entries()] == [100_000_000, 100_000_001]
    assert checkpoints.last()["step"] == 100_000_001


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
    "torn manifest": lambda folder: (folder / "manifest.json").write_text('{"epoch": 2, "st'),
    "list for a manifest": lambda folder: (folder / "manifest.json").write_text("[2]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_one_is_passed_over(tmp_path, damage, caplog):
    checkpoints = filled(tmp_path, 4)
    damage(tmp_path / name(3))
    assert checkpoints.last()["epoch"] == 2
    assert name(3) in caplog.text
    scores = {2: 0.2, 3: 0.9}
    assert checkpoints.best(scores)["epoch"] == 2
    damage(tmp_path / name(2))
    assert checkpoints.last() is None, "none is whole: the others were pruned"
    checkpoints.save(state(3), step=4 * STEPS, epoch=3)
    assert checkpoints.last()["epoch"] == checkpoints.best(scores)["epoch"] == 3


@given(st.floats(0, 1), st.integers(0, 7))
def test_a_flipped_bit_anywhere_in_a_manifest_changes_nothing_or_rules_it_out(at, bit):
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = filled(Path(folder), 2)
        path = Path(folder) / name(1) / "manifest.json"
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
    checkpoints = filled(tmp_path, 2)
    with pytest.raises(RunError, match="cannot write"):
        checkpoints.save({**state(2), "more": [torch.zeros(1000), Unwritable()]}, step=30, epoch=2)
    assert kept(checkpoints) == [0, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == [name(0), name(1)], "half a state takes room"
    assert checkpoints.last()["epoch"] == 1
    checkpoints.save(state(2), step=30, epoch=2)
    assert kept(checkpoints) == [0, 1, 2]


def test_a_state_that_is_saved_again_replaces_its_first_save(tmp_path):
    checkpoints = filled(tmp_path, 2)
    checkpoints.save({**state(1), "again": 1}, step=20)
    assert checkpoints.last()["again"] == 1
    assert [(entry.step, entry.epoch) for entry in checkpoints.entries()] == [(10, 0), (20, None)]


def test_a_full_disk_is_named_and_the_checkpoint_before_stays(tmp_path):
    """The kernel's limit on the size of a file ends a write as a full disk does, in the middle."""
    code = """
import resource, signal, sys, torch
from pathlib import Path
from pipelines.errors import RunError
from pipelines.training.checkpoint import Checkpoints, Writer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(Path(sys.argv[1]))
writer = Writer(checkpoints)
writer.save({"weight": torch.zeros(10)}, step=1)
writer.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
writer.save({"weight": torch.zeros(100_000)}, step=2)
try:
    writer.wait()
except RunError as error:
    print(error)
writer.save({"weight": torch.zeros(100)}, step=3)
writer.wait()
"""
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert re.match(r"disk full: a checkpoint needs 0 MiB, and \d+ MiB are free at \S+\ndo: make room there", said)
    assert [entry.step for entry in Checkpoints(tmp_path).entries()] == [1, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]
    assert torch.equal(Checkpoints(tmp_path).last(1)["weight"], torch.zeros(10))


def test_it_is_said_when_a_checkpoint_can_be_relied_on(tmp_path):
    checkpoints, told = Checkpoints(tmp_path), []
    writer = Writer(checkpoints)
    for step in (1, 2):
        writer.save(state(0), step=step, committed=lambda step=step: told.append((step, len(checkpoints.entries()))))
    writer.wait()
    assert told == [(1, 1), (2, 2)]


def test_nothing_but_plain_values_is_loaded(tmp_path):
    """A pickle that does more than build tensors is refused, whatever its hash."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"path": tmp_path}, step=1)
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        checkpoints.last()
