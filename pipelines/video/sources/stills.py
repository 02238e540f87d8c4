"""Frames as image files: through the bounded decoder, and an error that says which file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import NoReturn

from pipelines.data.faults import FaultError
from pipelines.data.formats.source import IMAGE_SUFFIXES
from pipelines.data.tree import Tree
from pipelines.errors import DataError
from pipelines.video.clip import Frames


def named(tree: Tree, folder: str) -> dict[str, str]:
    """The images directly in the folder, sorted: a frame's name without suffix -> its file."""
    found: dict[str, str] = {}
    for name in tree.under(folder, IMAGE_SUFFIXES):
        if name.rpartition("/")[0] == folder:
            stem = PurePosixPath(name).stem
            if stem in found:
                raise DataError(f"{name} and {found[stem]} are one frame's name twice", do="leave one of them")
            found[stem] = name
    return found


def read(tree: Tree, frames: Mapping[str, str]) -> Frames:
    """Upright, RGB, all of one size."""
    size = None
    for stem, name in frames.items():
        with saying(name):
            pixels = tree.files.image(name).fitted().pixels
            size = size or pixels.shape
            if pixels.shape != size:
                refuse_size(pixels.shape, size)
        yield stem, pixels


@contextmanager
def saying(name: str) -> Iterator[None]:
    """What is wrong with a file, with the file's name."""
    try:
        yield
    except FaultError as error:
        raise DataError(f"{name}: {error.reason}", do="mend the file, or leave its video out") from None


def refuse_size(found: tuple[int, ...], expected: tuple[int, ...]) -> NoReturn:
    raise FaultError("size-mismatch", f"{_size(found)}, expected {_size(expected)}")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
