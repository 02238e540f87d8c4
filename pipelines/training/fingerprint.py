"""What a training run is known by, so that no other is resumed in its place."""

from pathlib import Path
from typing import Any

from pipelines import files

CODE = Path(__file__).resolve().parents[1]


def fingerprint(raw: dict[str, Any], dataset: str) -> str:
    """Of everything that training follows from: parameters, data, code. What was begun under another fingerprint is
    never resumed."""
    rooms = ("data", "evaluation", "inference", "loading", "losses", "metrics", "models", "training")
    sections = {name: raw[name] for name in ("task", "seed", "model", "loss", "train")}
    code = {str(p.relative_to(CODE)): files.sha256(p) for room in rooms for p in sorted((CODE / room).rglob("*.py"))}
    return files.digest(sections, dataset, code)
