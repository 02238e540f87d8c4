"""One, two and four workers learn the same: the same batches in the same order, and what follows from them.

The oracle is one process that makes all passes over a batch itself.
"""

import json
import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pipelines import config
from pipelines.training import epoch, loop
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.job import Group, Job, LeftError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CONTEXT = multiprocessing.get_context("spawn")


def work(rank: int, world: int, meeting: str, raw: dict[str, Any], data: str, state: str, until: int | None) -> None:
    """One rank of a group that leaves after `until` updates."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=timedelta(60))
    job = Job(params=config.parse(raw), data=Path(data), state=Path(state))
    epoch.LOOK = -1.0  # it asks with every update
    asked = iter(range(1, 1000))
    try:
        loop.fit(job, Group(rank=rank, world=world, leave=lambda: next(asked) == until))
        left = False
    except LeftError:
        left = True
    finally:
        dist.destroy_process_group()
    assert left == (until is not None)


@pytest.fixture
def train(small: Callable[..., dict[str, Any]], dataset: Path, tmp_path: Path) -> Callable[..., Path]:
    """train("a", world=2, changes={...}) -> the state folder of what so many workers have trained."""

    def run(name: str, world: int, changes: dict[str, Any], task: str = "semantic", until: int | None = None) -> Path:
        raw = small(task, {"train.workers": 4, "train.learning_rate": 0.003, **changes})
        state = tmp_path / name
        meeting = tmp_path / f"{name}-{world}-{until}"
        arguments = (world, str(meeting), raw, str(dataset), str(state), until)
        processes = [CONTEXT.Process(target=work, args=(rank, *arguments)) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(600)
            assert process.exitcode == 0
        return state

    return run


def last(state: Path) -> dict[str, Any]:
    found = Checkpoints(state / "checkpoints").last()
    assert found is not None
    return found


def history(state: Path) -> list[dict[str, float]]:
    events = map(json.loads, (state / "events.jsonl").read_text().splitlines())
    return [event for event in events if event["kind"] == "epoch"]


# What differs in the last digits at first grows with each update, as in every training; and AdamW makes a step of
# what is but the rounding of a gradient of 0, so its weights are not compared.
@pytest.mark.parametrize(
    ("name", "task", "optimizer"),
    [("unet", "semantic", "sgd"), ("panoptic_deeplab", "panoptic", "sgd"), ("panoptic_deeplab", "panoptic", "adamw")],
)
def test_one_two_and_four_workers_learn_the_same(train, name, task, optimizer):
    changes = {"model.name": name, "train.optimizer": optimizer, "train.epochs": 2, "train.ema": 0.9}
    alone, two, four = (train(str(world), world, changes, task) for world in (1, 2, 4))
    expected = history(alone)
    assert len(expected) == 2
    assert expected[0]["train_loss"] != expected[1]["train_loss"]
    for state in (two, four):
        tolerance = 1e-3 if optimizer == "sgd" else 1e-2
        for row, wanted in zip(history(state), expected, strict=True):
            losses = [key for key in wanted if "loss" in key]
            assert {key: row[key] for key in losses} == pytest.approx(
                {key: wanted[key] for key in losses}, rel=tolerance
            )
        if optimizer == "sgd":
            ours, theirs = last(state)["average"]["weights"], last(alone)["average"]["weights"]
            apart = max(float((ours[key] - theirs[key]).abs().max()) for key in theirs)
            assert apart < 1e-4


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_group_that_shrinks_and_grows_learns_what_one_of_a_constant_size_does(train, parallel):
    """Two workers leave in the middle of an epoch, one goes on, and then four."""
    changes = {"train.optimizer": "sgd", "train.epochs": 3, "train.parallel": parallel}
    through = train("through", 2, changes)
    for world, until in ((2, 2), (1, 5), (4, None)):
        state = train("changing", world, changes, until=until)
    positions = [e.step for e in Checkpoints(state / "checkpoints").entries()]
    assert positions[-1] == 9
    for row, wanted in zip(history(state), history(through), strict=True):
        assert row["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-3)
    ours, theirs = last(state)["model"], last(through)["model"]
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 1e-4
