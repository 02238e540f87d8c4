"""What the engine costs beside a bare PyTorch loop with the same model, data and batches; and what workers gain.

    python benchmarks/overhead.py [--rounds 9] [--steps 20] [--model unet] [--encoder resnet18] [--size 128] [--batch 8]
    python benchmarks/overhead.py --scaling            # 2 workers against 1, and against 2 that do not know each other
    python benchmarks/overhead.py --device cuda --model deeplabv3plus --encoder resnet50 --size 512 --batch 16
        --precision bfloat16 --peak 989                # images per second, and of the peak's teraflops what is used

The bare loop: load, normalise, forward, losses, backward, clip, step, and the learning rate; nothing is said, counted,
watched or written. Rounds of both take turns in one process; ratios are those of neighbours, of CPU time where the
device is the CPU. `--scaling` measures in processes of their own: weak scaling, as each worker has the whole `--batch`.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
import torch.distributed as dist

from pipelines import config, files
from pipelines.data import shards
from pipelines.data.formats import shapes
from pipelines.training.epoch import Epoch
from pipelines.training.job import Group, Job
from pipelines.training.optimization.schedule import learning_rate
from pipelines.training.trainer import Trainer


def dataset(out: Path, images: int, size: int) -> None:
    drawn = shapes.plan(splits={"train": images, "val": 2, "test": 0})
    records = (shapes.draw(*item, seed=0, height=size, width=size, difficulty=0.5) for item in drawn)
    shards.write(records, classes=shapes.classes(), name="shapes", format="shapes", out=out, rows_per_shard=256)


def parameters(asked: argparse.Namespace, workers: int = 1) -> dict[str, Any]:
    return config.merge(
        config.read(ROOT / "params.yaml"),
        {
            "task": config.MODEL_TASKS[asked.model],
            "model.name": asked.model,
            "model.encoder": asked.encoder,
            "train.epochs": 10_000,
            "train.schedule": "constant",
            "train.batch_size": asked.batch * workers,
            "train.workers": workers,
            "train.precision": asked.precision,
            "train.augment.crop": [asked.size, asked.size],
            "train.loader_workers": asked.loaders,
        },
    )


def bare(trainer: Trainer) -> None:
    """One epoch with the trainer's own parts, and nothing else of it."""
    train, update = trainer.params.train, trainer.update
    model, optimizer, device = trainer.step, trainer.optimizer, trainer.group.device
    parameters = list(model.parameters())
    trainer.batches.epoch = trainer.position.epoch
    model.train()
    for i, batch in enumerate(trainer.loader):
        rate = learning_rate(
            i, steps=trainer.steps, base=trainer.base_rate, schedule=train.schedule, warmup=train.warmup
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        images = update.pixels.normalise(batch.images.to(device, non_blocking=True))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=train.precision == "bfloat16"):
            loss, _ = model(images, batch.targets.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, train.clip_norm)
        optimizer.step()
    trainer.position.epoch += 1


def engine(trainer: Trainer) -> None:
    trainer.position.close(Epoch(trainer).train())


def clocked(run: Callable[[Trainer], None], trainer: Trainer, cuda: bool) -> float:
    clock = time.perf_counter if cuda else time.process_time
    started = clock()
    run(trainer)
    if cuda:
        torch.cuda.synchronize()
    return clock() - started


def overhead(asked: argparse.Namespace) -> None:
    cuda = asked.device == "cuda"
    with tempfile.TemporaryDirectory() as name:
        dataset(Path(name) / "data", asked.steps * asked.batch, asked.size)
        job = Job(params=config.parse(parameters(asked)), data=Path(name) / "data", state=Path(name) / "state")
        trainer = Trainer(job, Group(device=torch.device(asked.device)))
        for run in (bare, engine):
            run(trainer)
        pairs = [(clocked(bare, trainer, cuda), clocked(engine, trainer, cuda)) for _ in range(asked.rounds)]
        trainer.close()
        ours, plain = (statistics.median(p[k] for p in pairs) / asked.steps for k in (1, 0))
        ratios = sorted(b / a for a, b in pairs)
        print(f"{asked.model} {asked.encoder}, {asked.batch} x {asked.size} x {asked.size}, {asked.device}")
        print(f"bare loop {1e3 * plain:8.1f} ms a step {asked.batch / plain:8.1f} images a second")
        print(f"engine    {1e3 * ours:8.1f} ms a step {asked.batch / ours:8.1f} images a second")
        print(
            f"engine / bare: median {statistics.median(ratios):.4f}, from {ratios[0]:.4f} to {ratios[-1]:.4f} "
            f"in {len(ratios)} rounds"
        )
        if asked.peak:
            share = flops(trainer) / ours / (asked.peak * 1e12)
            print(f"model FLOPs utilisation {share:.1%} of {asked.peak:g} teraflops")


def flops(trainer: Trainer) -> float:
    """Of one step, forward and backward, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    batch = next(iter(trainer.loader))
    device = trainer.group.device
    with FlopCounterMode(display=False) as counter:
        trainer.step(trainer.update.pixels.normalise(batch.images.to(device)), batch.targets.to(device))[0].backward()
    return float(counter.get_total_flops())


# Weak scaling


def work(rank: int, world: int, together: bool, folder: str, asked: argparse.Namespace, results: Any) -> None:
    torch.set_num_threads(1)
    workers = world if together else 1
    if together and world > 1:
        meeting = f"file://{folder}/meeting-{world}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    state = Path(folder) / f"state-{world}-{together}-{0 if together else rank}"
    job = Job(params=config.parse(parameters(asked, workers)), data=Path(folder) / "data", state=state)
    trainer = Trainer(job, Group(rank=rank if together else 0, world=workers))
    engine(trainer)
    started = time.perf_counter()
    done = 0
    while done < asked.rounds:
        engine(trainer)
        done += 1
    seconds = time.perf_counter() - started
    trainer.close()
    results.put(done * len(trainer.batches) * asked.batch / seconds)
    if together and world > 1:
        dist.destroy_process_group()


def rates(asked: argparse.Namespace, folder: str) -> Iterator[tuple[str, float]]:
    context = multiprocessing.get_context("spawn")
    for name, world, together in (("1 worker", 1, True), ("2 apart", 2, False), ("2 workers", 2, True)):
        for path in Path(folder).glob("meeting-*"):
            path.unlink()
        results = context.Queue()
        processes = [
            context.Process(target=work, args=(rank, world, together, folder, asked, results)) for rank in range(world)
        ]
        for process in processes:
            process.start()
        yield name, sum(results.get(timeout=600) for _ in processes)
        for process in processes:
            process.join()


def scaling(asked: argparse.Namespace, repeats: int = 3) -> None:
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        dataset(Path(name) / "data", asked.steps * asked.batch * 2, asked.size)
        for _ in range(repeats):
            for what, rate in rates(asked, name):
                found.setdefault(what, []).append(rate)
            for state in Path(name).glob("state-*"):
                files.remove(state)
    one, apart, two = (found[what] for what in ("1 worker", "2 apart", "2 workers"))
    for what, each in found.items():
        print(f"{what:10} {statistics.median(each):8.1f} images a second")
    print(f"2 workers / 1: {statistics.median(b / a for a, b in zip(one, two, strict=True)):.2f}")
    print(
        f"2 apart / 1, what the machine allows: {statistics.median(b / a for a, b in zip(one, apart, strict=True)):.2f}"
    )
    print(f"2 workers / 2 apart: {statistics.median(b / a for a, b in zip(apart, two, strict=True)):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--model", default="unet", choices=[m for m in config.MODEL_TASKS if m not in config.CLASSICAL])
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--loaders", type=int, default=0, help="processes that load")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--peak", type=float, default=0.0, help="the device's teraflops in this precision")
    parser.add_argument("--scaling", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    (scaling if asked.scaling else overhead)(asked)


if __name__ == "__main__":
    main()
