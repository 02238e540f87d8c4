"""serve: a trained model as an HTTP service on Ray Serve, with a page for people. Beside the line, not in dvc.yaml.

    python -m stages.serve [--model models:/maskline-panoptic@champion] [--port 8000]

Reads the sections serve and register (the champion's name) and the model; listens on loopback unless serve.host says
otherwise. SIGTERM and Ctrl-C let it finish what it is answering. pipelines/serving/app.py lists what can be asked.
"""

import argparse
from pathlib import Path
from typing import Any

from pipelines import config, stage
from pipelines.stage import Summary

OPTIONS = {"host": str, "port": int, "replicas": int, "device": str}  # of the section


def main() -> None:
    stage.conclude("serve", lambda: run(arguments()), interrupted="it was not serving yet")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.serve", description=__doc__.split(".")[0])
    parser.add_argument("--model", help="models:/name@alias, models:/name/version, or a folder; else the champion")
    for name, kind in OPTIONS.items():
        parser.add_argument(f"--{name}", type=kind, help=f"in place of serve.{name}")
    return parser.parse_args()


def run(asked: argparse.Namespace) -> Summary:
    root = Path.cwd()
    params = parameters(root, asked)
    section = params.serve

    from pipelines.registry.fetch import fetch
    from pipelines.serving import segmenter
    from pipelines.serving.app import App, Limits
    from pipelines.serving.door import Door, is_loopback, listen, room_for
    from pipelines.serving.replicas import replicas

    room_for(section.max_connections)
    model = fetch(asked.model or f"models:/{params.register_.name}-{params.task}@champion", root)
    settings = segmenter.Settings(
        package=model.folder,
        device=section.device,
        decoders=section.decoders,
        max_batch=section.max_batch,
        max_pixels=section.max_pixels,
        min_score=section.min_score,
        alpha=section.alpha,
    )
    limits = Limits(
        allowed_hosts=tuple(section.allowed_hosts),
        max_body=int(section.max_body_mb * 1e6),
        max_waiting=section.max_waiting,
        max_connections=section.max_connections,
        idle_seconds=section.idle_seconds,
        answer_seconds=section.answer_seconds,
        drain_seconds=section.drain_seconds,
    )
    with (
        listen(section.host, section.port) as socket,
        replicas(
            settings,
            count=section.replicas,
            wait=section.batch_wait_ms / 1000,
            waiting=section.max_waiting,
            drain=section.drain_seconds,
        ) as backend,
    ):
        app = App(backend, model=segmenter.about(model.folder, name=model.name, metrics=model.metrics), limits=limits)
        port = socket.getsockname()[1]
        print(f"serve: {model.name} on http://{section.host}:{port} (Ctrl-C ends it)", flush=True)
        if not is_loopback(section.host):
            print(f"serve: {section.host} is not loopback: whoever reaches it may ask", flush=True)
        Door(app).run(sockets=[socket])
    return {"answered": sum(app.counters.requests.values())}


def parameters(root: Path, asked: argparse.Namespace) -> config.Params:
    """params.yaml, with the command's options over it."""
    given: dict[str, Any] = {f"serve.{name}": getattr(asked, name) for name in OPTIONS}
    over = {name: value for name, value in given.items() if value is not None}
    source = f"params.yaml{' and the options' if over else ''}"
    return config.parse(config.merge(config.read(root / "params.yaml"), over), source)


if __name__ == "__main__":
    main()
