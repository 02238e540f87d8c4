"""DAVIS 2016 and 2017 as published: JPEGImages/<resolution>/<video>/*.jpg, Annotations/<resolution>/<video>/*.png
with the objects' ids as palette indices, and ImageSets/<year>/<list>.txt with a video's name in each line.

The objects to follow are those of a video's first frame, from 1 to the highest id; where a list's videos have no
other annotation (the test sets), nothing can be evaluated. 255 is void.
"""

from pathlib import PurePosixPath

import numpy as np

from pipelines.data.faults import FaultError, Faults
from pipelines.data.tree import Tree
from pipelines.errors import DataError
from pipelines.video.clip import Clip
from pipelines.video.sources import stills

RESOLUTIONS = ("480p", "Full-Resolution")
YEARS = ("2017", "2016")
VOID = 255


def clips(tree: Tree, listed: str) -> list[Clip]:
    """The videos of ImageSets/<year>/<listed>.txt, of the newest year that has it; of the smaller frames first."""
    faults = Faults()
    images = _first(tree, *(f"JPEGImages/{resolution}" for resolution in RESOLUTIONS))
    masks = images.replace("JPEGImages", "Annotations")
    found = []
    for video in _listed(tree, listed):
        frames = stills.named(tree, f"{images}/{video}")
        annotated = {PurePosixPath(name).stem: name for name in tree.under(f"{masks}/{video}", (".png",))}
        if not frames:
            faults.add("layout", f"{images}/{video}", "holds no frames")
        elif (first := next(iter(frames))) not in annotated:
            faults.add(
                "no-mask", f"{masks}/{video}/{first}.png", "missing: the first frame's masks are what is followed"
            )
        else:
            found.append(_clip(tree, video, frames, annotated))
    faults.check(f"{tree.root} is not as DAVIS is published")
    return found


def _clip(tree: Tree, video: str, frames: dict[str, str], annotated: dict[str, str]) -> Clip:
    def labels(frame: str) -> np.ndarray | None:
        if frame not in annotated:
            return None
        with stills.saying(annotated[frame]):
            ids = tree.files.mask(annotated[frame])
        return np.where(ids == VOID, 0, ids).astype(np.uint8)

    first = next(iter(frames))
    start = labels(first)
    return Clip(
        name=video,
        names=tuple(frames),
        frames=lambda: stills.read(tree, frames),
        annotated=tuple(name for name in frames if name in annotated),
        labels=labels,
        given=dict.fromkeys(range(1, int(0 if start is None else start.max()) + 1), first),
    )


def _listed(tree: Tree, listed: str) -> list[str]:
    names = [f"ImageSets/{year}/{listed}.txt" for year in YEARS]
    name = next((n for n in names if n in tree), None)
    if name is None:
        there = [PurePosixPath(n).stem for n in tree.under("ImageSets", (".txt",))]
        raise DataError(f"{tree.root} has none of {', '.join(names)}", do=f"name a list: {', '.join(there) or 'none'}")
    with stills.saying(name):
        text = tree.files.read(name).decode("utf-8-sig", errors="replace")
    # 2016's lines are pairs of an image and its mask: the folder is the video.
    lines = [line.split()[0] for line in text.splitlines() if line.strip()]
    return list(dict.fromkeys(PurePosixPath(line).parent.name if "/" in line else line for line in lines))


def _first(tree: Tree, *folders: str) -> str:
    try:
        return tree.first_folder(*folders)
    except FaultError as error:
        raise DataError(error.reason, do="name the folder that holds JPEGImages, Annotations and ImageSets") from None
