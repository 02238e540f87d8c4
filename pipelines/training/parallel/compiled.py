"""torch.compile of what is trained, and of nothing else.

Training has one size of image, for which a graph is compiled once. Validation has as many sizes as there are images,
each of which would cost a compilation, and runs the model as it is written.
"""

import os
import shutil

import torch
from torch import nn

from pipelines.errors import ConfigError

COMPILERS = ("g++", "clang++", "c++")


def compile_training(model: nn.Module, backend: str = "inductor") -> None:
    """In place, so that the names of the parameters stay; before `parallel.wrap`."""
    if not any(map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))):
        raise ConfigError(
            f"train.compile: torch compiles with one of {', '.join(COMPILERS)}, and none is installed",
            do="install one, or set train.compile: false",
        )
    plain = model.forward
    fast = torch.compile(plain, backend=backend)

    def forward(*args: object, **kwargs: object) -> object:
        return (fast if model.training else plain)(*args, **kwargs)

    model.forward = forward
