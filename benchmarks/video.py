"""Videos of moving shapes: what each part of propagation and of tracking is worth, against what is simplest.

    python benchmarks/video.py [--model results/train] [--videos 4] [--frames 32] [--picture docs/video.jpg]

Propagation is measured by J and F, as DAVIS does; tracking by video AP, as YouTube-VIS does, once of the truth with
noise (instances missed, moved, mistaken and invented), once of what the model finds. The videos' seed is another one
than that on which options were tuned.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipelines import config
from pipelines.data import rle
from pipelines.data.formats import shapes
from pipelines.data.prediction import Instances
from pipelines.data.tracks import Track
from pipelines.inference.predictor import Predictor
from pipelines.metrics.video_instances import VideoInstanceMetrics
from pipelines.metrics.video_objects import VideoObjectMetrics
from pipelines.video import image_model, outputs, propagation, tracking
from pipelines.video.detections import Detections, detections
from pipelines.video.overlap import overlaps
from pipelines.video.sheet import Sheet
from pipelines.video.sources.moving import Drawn, Movie, movie
from pipelines.video.track import Tracks

SEED = 2024
MISSED, MISTAKEN, INVENTED, MOVED = 0.1, 0.1, 0.3, 2  # chances; pixels
SNAP = 0.5
KEPT = 0.3  # the IoU from which the simplest tracker goes on
CLASSES = shapes.classes()
Detected = list[Detections]


@dataclass(frozen=True)
class Scene:
    movie: Movie
    frames: list[Drawn]

    @property
    def first(self) -> list[int]:
        return [int(i) for i in np.unique(self.frames[0].ids) if i]

    @property
    def truth(self) -> list[Track]:
        of = {i: [f.ids == i for f in self.frames] for i in self.movie.categories}
        return [
            Track(category=self.movie.categories[i], masks=tuple(rle.encode(m) if m.any() else None for m in masks))
            for i, masks in of.items()
            if any(m.any() for m in masks)
        ]


def drawn(videos: int, frames: int, scene: dict[str, float]) -> list[Scene]:
    made = [movie(k, seed=SEED, frames=frames, **scene) for k in range(videos)]  # type: ignore[arg-type]
    return [Scene(each, list(each)) for each in made]


def propagated(scene: Scene, predictor: Predictor, stride: int, options: propagation.Options) -> Iterable[np.ndarray]:
    propagator = propagation.Propagator(
        options,
        features=image_model.features(predictor, stride) if options.memory else None,
        segments=lambda image: image_model.segments(predictor, image),
    )
    for k, frame in enumerate(scene.frames):
        ids = propagator.step(frame.image)
        yield propagator.give(frame.ids, scene.first) if k == 0 else ids


def propagation_table(scenes: list[Scene], predictor: Predictor, section: config.Params) -> str:
    asked = section.video.propagate.model_dump()
    stride = asked.pop("stride")
    whole = propagation.Options(**asked)
    alone = replace(whole, again=None)
    rows: dict[str, propagation.Options | None] = {
        "the first frame's masks, unmoved": None,
        "flow": replace(alone, flow=True, memory=0),
        "resemblance": alone,
        "resemblance x flow": replace(alone, flow=True),
        "resemblance, snapped to the model's segments": replace(alone, snap=SNAP),
        "resemblance, found again (as shipped)": whole,
    }
    lines = ["| propagation | J&F | J | J recall | J decay | F | ms per frame |", "|---|---|---|---|---|---|---|"]
    for name, options in rows.items():
        metrics, started = VideoObjectMetrics(), time.process_time()
        for k, scene in enumerate(scenes):
            still = [scene.frames[0].ids] * len(scene.frames)
            found = still if options is None else propagated(scene, predictor, stride, options)
            pairs = zip((f.ids for f in scene.frames), found, strict=True)
            metrics.update(str(k), dict.fromkeys(scene.first, 0), pairs, count=len(scene.frames))
        milliseconds = 1000 * (time.process_time() - started) / sum(len(s.frames) for s in scenes)
        scores = metrics.compute()
        values = " | ".join(f"{scores[key]:.3f}" for key in ("jf", "j", "j_recall", "j_decay", "f"))
        lines.append(f"| {name} | {values} | {milliseconds:.0f} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def disturbed(scene: Scene, k: int) -> Instances:
    """The truth of a frame as a detector might have it."""
    rng, frame = np.random.default_rng((SEED, *scene.movie.seed, k)), scene.frames[k]
    things = sorted(set(scene.movie.categories.values()))
    masks, labels = [], []
    for i, category in scene.movie.categories.items():
        mask = np.roll(frame.ids == i, rng.integers(-MOVED, MOVED + 1, 2), (0, 1))
        if mask.any() and rng.random() >= MISSED:
            masks.append(mask)
            labels.append(int(rng.choice(things)) if rng.random() < MISTAKEN else category)
    if rng.random() < INVENTED:
        y, x = rng.integers(0, np.array(frame.ids.shape) - 12)
        mask = np.zeros(frame.ids.shape, bool)
        mask[y : y + 12, x : x + 12] = True
        masks.append(mask)
        labels.append(int(rng.choice(things)))
    return Instances(
        masks=np.array(masks, bool).reshape(-1, *frame.ids.shape),
        labels=np.array(labels, np.int64),
        scores=rng.uniform(0.5, 1, len(labels)).astype(np.float32),
        boxes=np.zeros((len(labels), 4), np.float32),
    )


class Simplest:
    """Each instance, surest first, goes on with the track whose last mask it overlaps most; others are forgotten."""

    def __init__(self) -> None:
        self.last: dict[int, np.ndarray] = {}
        self.seen: dict[int, list[tuple[int, float]]] = {}

    def step(self, _: np.ndarray, found: Detections) -> np.ndarray:
        identities, now = np.full(len(found), -1, np.int64), {}
        for k, mask in enumerate(found.masks):
            names = [i for i in self.last if i not in now]
            overlap = overlaps(np.array([self.last[i] for i in names]), mask[None])[:, 0]
            going_on = overlap.size and overlap.max() >= KEPT
            identity = names[int(overlap.argmax())] if going_on else len(self.seen)
            self.seen.setdefault(identity, []).append((int(found.labels[k]), float(found.scores[k])))
            identities[k], now[identity] = identity, mask
        self.last = now
        return identities

    def finish(self) -> list[tracking.Ended]:
        return [
            tracking.Ended(identity=i, label=seen[0][0], score=float(np.mean([score for _, score in seen])))
            for i, seen in self.seen.items()
        ]


def tracking_table(scenes: list[Scene], found: dict[str, list[Detected]], options: tracking.Options) -> str:
    trackers: dict[str, Callable[[], tracking.Tracker | Simplest]] = {
        "by overlap, one after the other": Simplest,
        "by overlap, all at once": lambda: tracking.Tracker(
            replace(options, flow=False, look=0.0, label=0.0, memory=0, confirm=1)
        ),
        "and moved with flow": lambda: tracking.Tracker(replace(options, look=0.0, label=0.0, memory=0, confirm=1)),
        "and by look and class": lambda: tracking.Tracker(replace(options, memory=0, confirm=1)),
        "and confirmed": lambda: tracking.Tracker(replace(options, memory=0)),
        "and found again (as shipped)": lambda: tracking.Tracker(options),
    }
    heads = [f"{name}: {score}" for name in found for score in ("AP", "AP50", "tracks")]
    lines = [f"| tracking | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, make in trackers.items():
        cells = [cell for every in found.values() for cell in _tracked(scenes, every, make)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def _tracked(
    scenes: list[Scene], found: list[Detected], make: Callable[[], tracking.Tracker | Simplest]
) -> tuple[str, str, str]:
    metrics = VideoInstanceMetrics([c.name for c in CLASSES], things=[k for k, c in enumerate(CLASSES) if c.isthing])
    count = 0
    for scene, every in zip(scenes, found, strict=True):
        tracker, tracks = make(), Tracks()
        for frame, each in zip(scene.frames, every, strict=True):
            tracks.add(each, tracker.step(frame.image, each))
        predicted = tracks.of(tracker)
        count += len(predicted)
        metrics.update(scene.truth, scene.frames[0].ids.shape, predicted)
    scores = metrics.compute()
    return f"{scores['ap']:.3f}", f"{scores['ap50']:.3f}", str(count)


def picture(scene: Scene, predictor: Predictor, params: config.Params, path: Path) -> None:
    """The propagated objects, above the tracks of the same video."""
    asked = params.video.propagate.model_dump()
    stride = asked.pop("stride")
    sheets = Sheet(4), Sheet(4)
    found = propagated(scene, predictor, stride, propagation.Options(**asked))
    tracker = tracking.Tracker(track_options(params))
    for k, (frame, ids) in enumerate(zip(scene.frames, found, strict=True)):
        sheets[0].add(f"propagated, frame {k}", frame.image, {int(i): ids == i for i in np.unique(ids) if i})
        each = seen(predictor, frame.image, image_model.instances(predictor, frame.image), params)
        identities = tracker.step(frame.image, each)
        masks = {int(i) + 1: mask for i, mask in zip(identities, each.masks, strict=True) if i >= 0}
        sheets[1].add(f"tracked, frame {k}", frame.image, masks)
    outputs.write_bytes(path, outputs.jpeg(np.concatenate([sheet.picture() for sheet in sheets])))


def track_options(params: config.Params) -> tracking.Options:
    asked = params.video.track.model_dump()
    return tracking.Options(**{k: v for k, v in asked.items() if k not in ("stride", "min_score", "most")})


def seen(predictor: Predictor, image: np.ndarray, instances: Instances, params: config.Params) -> Detections:
    section = params.video.track
    features = image_model.features(predictor, section.stride)(image)
    return detections(instances, min_score=section.min_score, most=section.most, features=features)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "results/train")
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--picture", type=Path, help="write one of the last video")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    params, predictor = config.load(ROOT / "params.yaml"), image_model.load(options.model)
    scene = params.video.shapes.model_dump(exclude={"videos", "frames"})
    scenes = drawn(options.videos, options.frames, scene)
    if options.picture:
        picture(scenes[-1], predictor, params, options.picture)
    found = {
        "truth with noise": [
            [seen(predictor, f.image, disturbed(s, k), params) for k, f in enumerate(s.frames)] for s in scenes
        ],
        "the model's": [
            [seen(predictor, f.image, image_model.instances(predictor, f.image), params) for f in s.frames]
            for s in scenes
        ],
    }
    print(f"\n{options.videos} videos of {options.frames} frames, {scene['height']}x{scene['width']}\n")
    print(tracking_table(scenes, found, track_options(params)), flush=True)
    print("\n" + propagation_table(scenes, predictor, params))


if __name__ == "__main__":
    main()
