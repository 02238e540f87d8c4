"""A video file, or a folder of its frames in the order of their names; the masks of the first frame beside it."""

from pathlib import Path

import numpy as np

from pipelines.data import video
from pipelines.data.tree import Files, Tree
from pipelines.errors import DataError
from pipelines.video.clip import Clip, Frames
from pipelines.video.sources import stills


def clip(path: Path, *, max_pixels: int, max_frames: int, masks: Path | None = None) -> Clip:
    """`masks`: a PNG of the first frame's objects, by their ids; without one there is nothing to follow."""
    listed: tuple[str, ...]
    ids = None if masks is None else _ids(masks)
    if path.is_dir():
        tree = Tree(str(path))
        names = stills.named(tree, "")
        if not names:
            raise DataError(f"{path} holds no frames", do="name a video file, or a folder of images")
        if len(names) > max_frames:
            raise DataError(
                f"{path}: more than {max_frames} frames", do="raise video.max_frames, or take a part of them"
            )
        listed = tuple(names)

        def frames() -> Frames:
            return stills.read(tree, names)
    else:
        listed = ()

        def frames() -> Frames:
            found = video.frames(path, max_pixels=max_pixels, max_frames=max_frames)
            return ((_number(k), frame) for k, frame in enumerate(found))

    first = listed[0] if listed else _number(0)
    given = {} if ids is None else {int(i): first for i in np.unique(ids[ids > 0])}
    return Clip(
        name=path.stem, names=listed, frames=frames, labels=lambda frame: ids if frame == first else None, given=given
    )


def _ids(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path} is missing", do="name a PNG of object ids, of the first frame's size")
    with stills.saying(str(path)):
        ids = Files(str(path.resolve().parent)).mask(path.name)
    if not ids.any():
        raise DataError(f"{path} holds no object", do="give every object's pixels an id from 1 to 254")
    return np.where(ids > 254, 0, ids).astype(np.uint8)


def _number(k: int) -> str:
    return f"{k:05}"
