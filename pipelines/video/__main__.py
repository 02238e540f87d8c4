"""Videos, on top of a trained image model.

python -m pipelines.video draw VIDEOS
python -m pipelines.video propagate VIDEOS --format davis --out MASKS
python -m pipelines.video evaluate MASKS VIDEOS --format davis
python -m pipelines.video track VIDEOS/instances.json --format youtube-vis --out TRACKS
python -m pipelines.video evaluate TRACKS/results.json VIDEOS/instances.json --format youtube-vis
python -m pipelines.video track film.mp4 --out TRACKS
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from pipelines import config, environment
from pipelines.errors import ConfigError, MasklineError

MODEL = Path("results/train")


def main() -> int:
    environment.prepare()
    arguments = _arguments()
    try:
        params = config.load(Path.cwd() / "params.yaml")
        said = COMMANDS[arguments.command](arguments, params)
        print(f"{arguments.command}: " + "  ".join(f"{key} {value}" for key, value in said.items()), flush=True)
    except MasklineError as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{arguments.command}: interrupted; the videos that are done are kept", file=sys.stderr)
        return 130
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.video", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    draw = commands.add_parser("draw", help="moving shapes, in DAVIS's and YouTube-VIS's layouts")
    draw.add_argument("out", type=Path, help="a new folder")
    propagate = commands.add_parser("propagate", help="carry the masks of the first frame through the others")
    track = commands.add_parser("track", help="tie the instances of all frames together")
    evaluate = commands.add_parser("evaluate", help="results against annotations: J and F, or video AP")
    evaluate.add_argument("results", type=Path, help="the folder of propagated masks, or the tracks' results.json")
    for command, formats, first in (
        (propagate, ("plain", "davis", "youtube-vos"), "plain"),
        (track, ("plain", "youtube-vis"), "plain"),
        (evaluate, ("davis", "youtube-vos", "youtube-vis"), "davis"),
    ):
        command.add_argument("source", type=Path, help="plain: a video file, or a folder of frames; else the dataset")
        command.add_argument("--format", choices=formats, default=first, help="how it is published")
        if command is not track:
            command.add_argument("--list", default="val", help="davis: of ImageSets; youtube-vos: the split's folder")
        if command is not evaluate:
            command.add_argument("--out", type=Path, required=True, help="a folder for the results")
            command.add_argument("--model", type=Path, default=MODEL, help="the folder of a trained model")
    propagate.add_argument("--masks", type=Path, help="plain: a PNG of the first frame's objects, by their ids")
    track.add_argument("--frames", default="JPEGImages/480p", help="youtube-vis: their folder, beside the file")
    evaluate.add_argument("--out", type=Path, help="a file for the scores, as JSON")
    return parser.parse_args()


def draw(arguments: argparse.Namespace, params: config.Params) -> dict[str, Any]:
    from pipelines.video import draw

    scene = params.video.shapes.model_dump()
    return draw.run(arguments.out, videos=scene.pop("videos"), seed=params.seed, scene=scene)


def propagate(arguments: argparse.Namespace, params: config.Params) -> dict[str, Any]:
    from pipelines.video import image_model, propagate
    from pipelines.video.propagation import Options

    asked = params.video.propagate.model_dump()
    stride = asked.pop("stride")
    options = Options(**asked)
    clips = _clips(arguments, params)
    predictor = image_model.load(arguments.model) if options.memory or options.asks_model else None
    return propagate.run(
        clips,
        arguments.out,
        predictor=predictor,
        options=options,
        stride=stride,
        pictures=params.video.pictures,
        asked=_asked(arguments, params.video.propagate, predictor),
    )


def track(arguments: argparse.Namespace, params: config.Params) -> dict[str, Any]:
    from pipelines.video import image_model, track
    from pipelines.video.tracking import Options

    asked = params.video.track.model_dump()
    settings = {name: asked.pop(name) for name in ("stride", "min_score", "most")}
    predictor = image_model.load(arguments.model)
    names = {c.name: k for k, c in enumerate(predictor.classes) if c.isthing}
    if arguments.format == "youtube-vis":
        tree, truth = _vis(arguments.source)
        shared = {c.name: c.id for c in truth.file.categories if c.name in names}
        if not shared:
            raise ConfigError(
                f"{arguments.source} and {arguments.model} share no category", do=f"the model has {', '.join(names)}"
            )
        categories = {names[name]: identity for name, identity in shared.items()}
        from pipelines.video.sources import youtube_vis

        folder = arguments.frames if tree.has_folder(arguments.frames) else ""
        clips = [(video.id, clip) for video, clip in youtube_vis.clips(tree, truth, folder)]
    else:
        categories = {k: k for k in names.values()}
        clips = [(1, _plain(arguments.source, params, None))]
    return track.run(
        clips,
        arguments.out,
        predictor=predictor,
        categories=categories,
        options=Options(**asked),
        settings=settings,
        pictures=params.video.pictures,
        asked=_asked(arguments, params.video.track, predictor),
    )


def evaluate(arguments: argparse.Namespace, params: config.Params) -> dict[str, Any]:
    from pipelines import files
    from pipelines.data.tree import MAX_JSON_BYTES, Files, Tree
    from pipelines.video import evaluate
    from pipelines.video.sources import stills

    if arguments.format == "youtube-vis":
        scores: tuple[str, ...] = evaluate.TRACKS
        with stills.saying(str(arguments.results)):
            data = Files(str(arguments.results.resolve().parent)).read(arguments.results.name, MAX_JSON_BYTES)
        metrics = evaluate.tracks(data, str(arguments.results), _vis(arguments.source)[1])
    else:
        scores = evaluate.OBJECTS
        metrics = evaluate.objects(Tree(str(arguments.results)), _clips(arguments, params))
    if arguments.out is not None:
        files.write_json(arguments.out, metrics)
    print(evaluate.table(metrics, scores))
    return {name: "none" if metrics[name] is None else f"{metrics[name]:.3f}" for name in scores[:1]}


COMMANDS = {"draw": draw, "propagate": propagate, "track": track, "evaluate": evaluate}


def _clips(arguments: argparse.Namespace, params: config.Params) -> list[Any]:
    """What is followed, or was."""
    from pipelines.data.tree import Tree
    from pipelines.video.sources import davis, youtube_vos

    if arguments.format == "plain":
        return [_plain(arguments.source, params, arguments.masks)]
    layouts = {"davis": davis.clips, "youtube-vos": youtube_vos.clips}
    return layouts[arguments.format](Tree(str(arguments.source)), arguments.list)


def _plain(source: Path, params: config.Params, masks: Path | None) -> Any:
    from pipelines.video.sources import plain

    limits = {"max_pixels": params.video.max_pixels, "max_frames": params.video.max_frames}
    return plain.clip(source, masks=masks, **limits)


def _vis(source: Path) -> tuple[Any, Any]:
    """A file of YouTube-VIS's, and the folder that it is in."""
    from pipelines.data.tree import MAX_JSON_BYTES, Tree
    from pipelines.video.sources import stills, youtube_vis

    tree = Tree(str(source.parent))
    with stills.saying(str(source)):
        data = tree.files.read(source.name, MAX_JSON_BYTES)
    return tree, youtube_vis.read(data, str(source))


def _asked(arguments: argparse.Namespace, section: Any, predictor: Any) -> dict[str, Any]:
    """What results depend on: an answer to another question is not gone on with."""
    weights = predictor.description["weights"]["sha256"] if predictor is not None else None
    masks = getattr(arguments, "masks", None)
    return {
        "source": str(arguments.source.resolve()),
        "format": arguments.format,
        "list": getattr(arguments, "list", None),
        "masks": None if masks is None else str(masks.resolve()),
        "model": weights,
        "options": section.model_dump(),
    }


if __name__ == "__main__":
    sys.exit(main())
