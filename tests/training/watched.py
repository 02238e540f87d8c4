"""Ranks on gloo under a watchdog, in processes of their own, which may be stopped: forked from one that has imported
what they need."""

import multiprocessing
import time
from pathlib import Path

import torch
import torch.distributed as dist

from pipelines.training.watching.events import EventLog
from pipelines.training.watching.heartbeat import Heartbeat
from pipelines.training.watching.watchdog import Watchdog

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.watched"])


def train(rank: int, world: int, state: Path, steps: int, deserts_at: int | None, hang_seconds: float) -> None:
    """Steps with one collective each. Rank 1 leaves one out at `deserts_at`, and does something else for ever."""
    torch.set_num_threads(1)
    heart = Heartbeat(state / "ranks", rank)
    events = EventLog(state / "events.jsonl")
    dist.init_process_group("gloo", init_method=f"file://{state}/meeting", rank=rank, world_size=world)
    with Watchdog(heart, state / "ranks", events, rank=rank, world=world, hang_seconds=hang_seconds):
        for step in range(steps):
            heart.beat(step, "forward", [f"image-{step}-{rank}"])
            if rank == 1 and step == deserts_at:
                heart.beat(step, "other")
                time.sleep(3600)
            time.sleep(0.02)
            heart.beat(step, "communication")
            dist.all_reduce(torch.ones(1000))
    events.write("done", rank=rank)
    dist.destroy_process_group()


def start(*arguments: object) -> multiprocessing.process.BaseProcess:
    process = CONTEXT.Process(target=train, args=arguments, daemon=True)
    process.start()
    return process
