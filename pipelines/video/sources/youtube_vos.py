"""YouTube-VOS as published (Xu et al. 2018): meta.json with each video's objects and the frames that show them,
JPEGImages/<video>/*.jpg, Annotations/<video>/*.png for some of the frames.

An object is given in the first frame that shows it, which may be any; it is followed from there on.
"""

import json
from pathlib import PurePosixPath
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from pipelines.data.classes import said
from pipelines.data.faults import Faults
from pipelines.data.tree import MAX_JSON_BYTES, Tree
from pipelines.errors import DataError, bounded
from pipelines.video.clip import Clip
from pipelines.video.sources import stills

META = "meta.json"


class Object(BaseModel):
    frames: Annotated[list[str], Field(min_length=1)]


class Video(BaseModel):
    objects: dict[Annotated[int, Field(ge=1, le=254)], Object]


class Meta(BaseModel):
    videos: dict[str, Video]


def clips(tree: Tree, listed: str) -> list[Clip]:
    """`listed`: the folder of the published split (train, valid, test), or "" where the root is one."""
    start = f"{listed}/" if tree.has_folder(f"{listed}/JPEGImages") else ""
    with stills.saying(f"{start}{META}"):
        data = tree.files.read(f"{start}{META}", MAX_JSON_BYTES)
    faults, found = Faults(), []
    for video, about in parse(data, f"{start}{META}").videos.items():
        frames = stills.named(tree, f"{start}JPEGImages/{video}")
        names = tree.under(f"{start}Annotations/{video}", (".png",))
        annotated = {PurePosixPath(name).stem: name for name in names}
        given = {identity: min(each.frames) for identity, each in about.objects.items()}
        for identity, frame in given.items():
            if frame not in frames or frame not in annotated:
                missing = "frame" if frame not in frames else "annotation"
                faults.add("no-mask", f"{video}/{frame}", f"object {identity} is given in it, and it has no {missing}")
        found.append(_clip(tree, video, frames, annotated, given))
    faults.check(f"{tree.root} is not as YouTube-VOS is published")
    return found


def parse(data: bytes, name: str) -> Meta:
    try:
        return TypeAdapter(Meta).validate_python(json.loads(data))
    except ValidationError as error:
        raise DataError(f"{name} is not YouTube-VOS's", bounded(said(error))) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} cannot be read: {error}", do="fetch it again") from None


def _clip(tree: Tree, video: str, frames: dict[str, str], annotated: dict[str, str], given: dict[int, str]) -> Clip:
    def labels(frame: str) -> np.ndarray | None:
        if frame not in annotated:
            return None
        with stills.saying(annotated[frame]):
            ids = tree.files.mask(annotated[frame])
        return np.where(np.isin(ids, list(given)), ids, 0).astype(np.uint8)

    return Clip(
        name=video,
        names=tuple(frames),
        frames=lambda: stills.read(tree, frames),
        annotated=tuple(name for name in frames if name in annotated),
        labels=labels,
        given=given,
    )
