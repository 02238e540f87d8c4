"""What a process holds at its peak that loads a package and predicts an image: `python -m pipelines.exporting.memory
FOLDER HEIGHT WIDTH`."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from pipelines.inference import cost, package


def peak(folder: Path, size: tuple[int, int]) -> int:
    """Bytes, with Python and its libraries, by asking a process of its own."""
    command = [sys.executable, "-m", "pipelines.exporting.memory", str(folder), *map(str, size)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    predictor = package.load(Path(sys.argv[1]))
    predictor.predict([np.zeros((int(sys.argv[2]), int(sys.argv[3]), 3), np.uint8)])
    print(cost.peak())
