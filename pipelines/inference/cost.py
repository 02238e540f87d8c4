"""What a prediction costs: time, memory, size. Everything here that is timed, is timed by `seconds`.

Memory is what the whole process holds at its peak on a CPU, with Python and its libraries, since that is what a machine
has to have; on a GPU it is what torch has allocated there. MB are millions of bytes.
"""

import ctypes
import resource
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from pipelines.inference.predictor import Predictor

IMAGES, WARM_UP, BATCHES = 48, 3, 3  # timed one by one; before that, untimed; and after it, in batches
PATIENCE = 20.0  # seconds: slow models are timed on fewer images
MEGABYTE = 1e6
PROCESS, LINUX = Path("/proc/self"), sys.platform == "linux"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of a model on a device."""

    latency_ms: float  # one image at a time: the median
    latency_p95_ms: float
    images_per_second: float  # in batches
    memory_mb: float
    parameters: int
    size_mb: float  # of the file of weights
    device: str
    latencies_ms: tuple[float, ...] = ()  # of each image, rising

    def summary(self) -> dict[str, Any]:
        """As cost.json has it."""
        return {name: value for name, value in asdict(self).items() if name != "latencies_ms"}


def measure(
    predict: Callable[[list[np.ndarray]], Any],
    images: Iterable[np.ndarray],
    *,
    batch_size: int,
    parameters: int,
    size: int,
    device: str = "cpu",
) -> Cost:
    """Of `predict` on some images uint8[h, w, 3], at least one; a batch is made of those of the first one's size. The
    weights have `size` bytes."""
    alone: list[float] = []
    batch: list[np.ndarray] = []
    for image in images:
        if not batch:
            for _ in range(WARM_UP):
                predict([image])
            forget_peak(device)
        if len(batch) < batch_size and image.shape == (batch or [image])[0].shape:
            batch.append(image)
        alone.append(seconds(partial(predict, [image]), device=device))
        if sum(alone) > PATIENCE:
            break
    memory = peak(device)
    predict(batch)
    together = [seconds(partial(predict, batch), device=device) for _ in range(1 if sum(alone) > PATIENCE else BATCHES)]
    return Cost(
        latency_ms=1000 * median(alone),
        latency_p95_ms=1000 * float(np.quantile(alone, 0.95)),
        images_per_second=len(batch) / median(together),
        memory_mb=memory / MEGABYTE,
        parameters=parameters,
        size_mb=size / MEGABYTE,
        device=torch.cuda.get_device_name(device) if is_gpu(device) else device,
        latencies_ms=tuple(1000 * taken for taken in sorted(alone)),
    )


def of(predictor: Predictor, images: Iterable[np.ndarray], *, batch_size: int) -> Cost:
    """Of a package; its size is that of its tensors, of which its file holds little else."""
    model = predictor.model
    return measure(
        predictor.predict,
        images,
        batch_size=batch_size,
        parameters=sum(p.numel() for p in model.parameters()),
        size=sum(t.numel() * t.element_size() for t in model.state_dict().values()),
        device=str(predictor.device),
    )


def some(count: int, most: int = IMAGES) -> list[int]:
    """At most `most` of `count` images, spread evenly."""
    return [i * count // most for i in range(most)] if count > most else list(range(count))


def seconds(ask: Callable[[], object], *, device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Of one call to its end: what a GPU was told to do is waited for, before and after."""
    if is_gpu(device):
        torch.cuda.synchronize(device)
    started = clock()
    ask()
    if is_gpu(device):
        torch.cuda.synchronize(device)
    return clock() - started


def forget_peak(device: str = "cpu") -> None:
    """The peak begins anew. What was freed goes back first, or what follows would use it unseen."""
    if is_gpu(device):
        torch.cuda.reset_peak_memory_stats(device)
    elif LINUX:
        ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):  # a sandbox may forbid it: the peak is then that of the whole process's life
            (PROCESS / "clear_refs").write_text("5")


def peak(device: str = "cpu") -> int:
    """Bytes, since `forget_peak`; where the system cannot forget, since the process began."""
    if is_gpu(device):
        return torch.cuda.max_memory_allocated(device)
    if LINUX:
        return resident("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident(name: str) -> int:
    """A line of Linux's account of this process, in bytes."""
    lines = (PROCESS / "status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def is_gpu(device: str) -> bool:
    return device.startswith("cuda")
