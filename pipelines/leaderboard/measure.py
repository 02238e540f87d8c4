"""What a model costs: parameters, operations, time and memory for one image of a size.

Times are medians of rounds in which every model has its turn: what else the machine does meets all of them alike.
"""

import gc
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipelines.inference import cost, package
from pipelines.models.contract import SegmentationModel

ROUNDS = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one image."""

    parameters: int
    operations: int  # multiplications and additions each count, as in most tables they do not
    seconds: float
    memory: int  # bytes at the peak of a prediction, beyond the model itself


def costs(folders: Mapping[str, Path], size: tuple[int, int], *, rounds: int = ROUNDS) -> dict[str, Cost]:
    """Of the packages in these folders, as they are asked without windows, scales and flips."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {name: package.load(folder, device=device).model for name, folder in folders.items()}
    images = {name: _image(size, model.stride, device) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for turn in range(rounds + 1):  # the first one warms up
            for name, model in models.items():
                seconds = cost.seconds(partial(_ask, model, images[name]), device=device)
                if turn:
                    times[name].append(seconds)
        return {
            name: Cost(
                parameters=sum(p.numel() for p in model.parameters()),
                operations=_operations(model, images[name]),
                seconds=median(times[name]),
                memory=_memory(folders[name], size, device),
            )
            for name, model in models.items()
        }


def _image(size: tuple[int, int], stride: int, device: str) -> Tensor:
    height, width = (-(-side // stride) * stride for side in size)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, height, width, generator=generator).to(device, memory_format=torch.channels_last)


def _ask(model: SegmentationModel, image: Tensor) -> None:
    """To the end: of some models half of the work comes after the network's forward."""
    height, width = image.shape[-2:]
    model.predict(model(image), [(height, width)])


def _operations(model: SegmentationModel, image: Tensor) -> int:
    model.requires_grad_(False)  # the counter follows what wants a gradient, which nothing has in inference mode
    with FlopCounterMode(display=False) as counter:
        _ask(model, image)
    return int(counter.get_total_flops())


def _memory(folder: Path, size: tuple[int, int], device: str) -> int:
    """On a GPU its allocator knows; on the CPU a process of its own is asked for its peak."""
    if device == "cpu":
        command = [sys.executable, "-m", "pipelines.leaderboard.measure", str(folder), *map(str, size)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    model = package.load(folder, device=device).model
    image = _image(size, model.stride, device)
    gc.collect()
    cost.forget_peak(device)
    before = torch.cuda.memory_allocated()
    with torch.inference_mode():
        _ask(model, image)
    return cost.peak(device) - before


def _peak_here(folder: Path, size: tuple[int, int]) -> int:
    """Bytes by which this process's peak grows when the model in `folder` predicts."""
    model = package.load(folder).model
    image = _image(size, model.stride, "cpu")
    with torch.inference_mode():
        _ask(model, _image((64, 64), model.stride, "cpu"))  # libraries that load when first used
        gc.collect()
        cost.forget_peak()  # loading the weights had one of its own
        before = cost.resident("VmRSS")
        _ask(model, image)
    return max(0, cost.peak() - before)


if __name__ == "__main__":
    print(_peak_here(Path(sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3]))))
