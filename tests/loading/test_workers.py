"""What loader workers may do, and what then becomes of the run, of the other processes and of the memory."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.data.shards import ShardReader
from pipelines.errors import RunError
from pipelines.loading import slots
from pipelines.loading.augment import Augment, Sample
from pipelines.loading.loader import TrainingLoader, TrainingSamples
from pipelines.loading.sampler import GlobalBatches

ROOT = Path(__file__).resolve().parents[2]
SHM = Path("/dev/shm")  # noqa: S108
DEEDS = {
    "nothing": lambda: None,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exits": lambda: os._exit(7),
    "hangs": lambda: time.sleep(600),
    "fails": lambda: {}["a bug"],
}


class Samples(TrainingSamples):
    """Does a deed when it comes to a certain image."""

    def __init__(self, folder: Path, deed: str, at: int):
        crop = Augment(crop=[48, 48], scale=[0.8, 1.25], flip=0.5, color=0.3)
        super().__init__(ShardReader(folder, "train"), crop, 3)
        self.deed, self.at = deed, at

    def __call__(self, key: tuple[int, int]) -> Sample:
        if key[1] == self.at:
            DEEDS[self.deed]()
        return super().__call__(key)


def loader(folder: Path, deed: str = "nothing", at: int = -1, workers: int = 2, seconds: float = 60) -> TrainingLoader:
    samples = Samples(folder, deed, at)
    batches = GlobalBatches(len(samples.reader), batch_size=4, seed=3)
    return TrainingLoader(samples, batches, stride=16, workers=workers, seconds=seconds)


def pids(loader: TrainingLoader) -> list[int]:
    assert loader._processes is not None
    return [process.pid for process in loader._processes.processes]


def gone(found: list[int], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in found):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = set(SHM.glob("*"))
    yield
    assert {path for path in set(SHM.glob("*")) - before if path.name.startswith(("torch", "psm", "mask"))} == set()


@pytest.mark.parametrize(
    ("deed", "how"),
    [
        ("killed", "was killed by SIGKILL"),
        ("exits", "ended with exit code 7"),
        ("hangs", "has done nothing for 6 s"),
    ],
)
def test_a_lost_worker_ends_the_run_and_names_its_images(dataset, deed, how):
    """At the third sample of its second batch: what was read is named, and what was being read."""
    list(loader(dataset))  # starting the first process takes longer than a hanging one is waited for here
    batches = list(GlobalBatches(12, batch_size=4, seed=3))
    indices = [index for _, index in batches[1]]
    lost = loader(dataset, deed, indices[2], seconds=6 if deed == "hangs" else 60)
    started = time.monotonic()
    with pytest.raises(RunError) as caught:
        list(lost)
    assert time.monotonic() - started < 60
    text = str(caught.value)
    assert re.search(rf"a loader worker \(pid \d+\) {how}", text)
    assert f"images {', '.join(map(str, indices))} of the training split; it was at image {indices[2]}" in text
    for index in indices[:2]:
        assert f"{index} ({lost.samples.reader[index].id})" in text
    assert multiprocessing.active_children() == []


def test_a_bug_comes_with_its_traceback(dataset):
    with pytest.raises(RuntimeError, match=r"(?s)a loader worker failed:.*in __call__.*KeyError: 'a bug'"):
        list(loader(dataset, "fails", 5))


def test_workers_stay_from_epoch_to_epoch_and_end_with_close(dataset):
    ours = loader(dataset)
    first = [b.ids for b in ours]
    found = pids(ours)
    ours.batches.epoch = 1
    assert [b.ids for b in ours] != first
    assert pids(ours) == found
    ours.close()
    assert gone(found)
    ours.batches.epoch = 0
    assert [b.ids for b in ours] == first  # it can be started again
    ours.close()


def test_workers_end_with_their_loader(dataset):
    ours = loader(dataset)
    next(iter(ours))
    found = pids(ours)
    del ours
    assert gone(found)


def test_an_epoch_that_was_left_early_leaves_nothing_in_the_next(dataset):
    ours = loader(dataset)
    wanted = [b.ids for b in loader(dataset, workers=0)]
    left = iter(ours)
    next(left)
    assert [b.ids for b in ours] == wanted
    with pytest.raises(RuntimeError, match="this epoch was left for another one"):
        next(left)
    ours.close()


def test_a_worker_that_dies_idle_is_noticed(dataset):
    ours = loader(dataset)
    list(ours)
    os.kill(pids(ours)[0], signal.SIGKILL)
    with pytest.raises(RunError, match="was killed by SIGKILL"):
        list(ours)


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.loading.test_workers import loader, pids
if __name__ == "__main__":
    ours = loader(Path({folder!r}), "hangs", {at})
    batches = iter(ours)
    next(batches)
    print(*pids(ours), flush=True)
    time.sleep(600)
"""


def test_workers_end_with_their_parent_even_where_they_hang(dataset, tmp_path):
    at = list(GlobalBatches(12, batch_size=4, seed=3))[1][0][1]
    (tmp_path / "run.py").write_text(SCRIPT.format(root=str(ROOT), folder=str(dataset), at=at))
    parent = subprocess.Popen([sys.executable, tmp_path / "run.py"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    found = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(found) == 2
    helpers = [p.pid for p in psutil.Process(parent.pid).children(recursive=True)]
    parent.kill()
    parent.wait()
    assert gone([*found, *helpers])


def test_too_little_memory_is_said_at_once(dataset, tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("999900000\n")
    monkeypatch.setattr(slots, "CGROUP", tmp_path)
    assert slots.free_memory() == 100_000
    with pytest.raises(RunError, match=r"needs 0 MB of memory for batches, and 0 MB are free\ndo: lower train"):
        loader(dataset)
    (tmp_path / "memory.max").write_text("max\n")
    assert slots.free_memory() > 100_000
