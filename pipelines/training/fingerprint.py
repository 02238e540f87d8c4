"""What a training run is known by, so that no other is resumed in its place."""

from pathlib import Path
from typing import Any

from pipelines import files

CODE = Path(__file__).resolve().parents[1]
# What in it a model follows from.
ROOMS = ("data", "evaluation", "inference", "loading", "losses", "metrics", "models", "targets.py", "training")


def fingerprint(raw: dict[str, Any], dataset: str) -> str:
    """Of everything that training follows from: parameters, data, code. What was begun under another fingerprint is
    never resumed."""
    sections = {name: raw[name] for name in ("task", "seed", "model", "loss", "train")}
    paths = [path.relative_to(CODE) for path in CODE.rglob("*.py")]
    code = {str(path): files.sha256(CODE / path) for path in paths if path.parts[0] in ROOMS}
    return files.digest(sections, dataset, code)
