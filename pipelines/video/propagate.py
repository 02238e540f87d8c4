"""`python -m pipelines.video propagate`: the masks that are given, carried through every frame of each video.

<out>/<video>/<frame>.png     the objects' ids, with DAVIS's palette: what its evaluation reads
<out>/<video>.jpg             some frames with their objects
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import DataError
from pipelines.inference.predictor import Predictor
from pipelines.progress import Progress
from pipelines.video import image_model, outputs
from pipelines.video.clip import Clip
from pipelines.video.propagation import Options, Propagator
from pipelines.video.sheet import Sheet


def run(
    clips: Sequence[Clip],
    out: Path,
    *,
    predictor: Predictor | None,
    options: Options,
    stride: int,
    pictures: int,
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """Every video that is not there yet; those that cannot be read are said together, at the end."""
    if unfollowed := [clip.name for clip in clips if not clip.given]:
        raise DataError("no object's mask is given", unfollowed, do="name the first frame's masks: --masks FIRST.png")
    make = partial(_propagator, options, predictor, stride)
    faults, done, frames = [], 0, 0
    with outputs.opened(out, asked), Progress("propagate", sum(len(c.names) for c in clips), "frames") as progress:
        for clip in clips:
            if (out / clip.name).is_dir() and (out / f"{clip.name}.jpg").is_file():
                frames += len(clip.names)
                continue
            try:
                frames = _follow(clip, out, make(), Sheet(pictures), progress, frames)
                done += 1
            except DataError as error:
                faults.append(f"{clip.name}: {error}")
    if faults:
        raise DataError(f"{len(faults)} of {len(clips)} videos were not propagated", faults)
    return {"videos": len(clips), "new": done, "frames": frames}


def _propagator(options: Options, predictor: Predictor | None, stride: int) -> Propagator:
    if predictor is None:
        return Propagator(options)
    return Propagator(
        options,
        features=image_model.features(predictor, stride),
        segments=partial(image_model.segments, predictor) if options.asks_model else None,
    )


def _follow(clip: Clip, out: Path, propagator: Propagator, sheet: Sheet, progress: Progress, before: int) -> int:
    with outputs.whole(out / clip.name) as folder:
        for number, (name, image) in enumerate(clip.frames(), start=1):
            ids = propagator.step(image)
            if given := [i for i, frame in clip.given.items() if frame == name]:
                ids = propagator.give(_labels(clip, name, image), given)
            outputs.write_ids(folder / f"{name}.png", ids)
            sheet.add(name, image, {int(i): ids == i for i in np.unique(ids) if i})
            progress.update(before + number, clip.name, total=max(progress.total, before + number))
        outputs.write_bytes(out / f"{clip.name}.jpg", outputs.jpeg(sheet.picture()))
    return before + number


def _labels(clip: Clip, name: str, image: np.ndarray) -> np.ndarray:
    labels = clip.labels(name)
    if labels is None or labels.shape != image.shape[:2]:
        found = "no masks" if labels is None else f"masks of {labels.shape[1]}x{labels.shape[0]}"
        raise DataError(
            f"frame {name}: {found}, expected {image.shape[1]}x{image.shape[0]}",
            do="give masks of the frame's own size",
        )
    return labels
