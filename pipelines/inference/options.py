"""How a semantic model is asked: the section `evaluate.inference`, registered with the model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipelines import files


@dataclass(frozen=True, kw_only=True, slots=True)
class Inference:
    """The defaults ask the network once for the whole image."""

    tile: tuple[int, int] | None = None  # height, width of windows
    overlap: float = 0.0  # of neighbouring windows, whose probabilities are blended
    context: int = 0  # pixels around a window that are seen and not predicted
    scales: tuple[float, ...] = (1.0,)  # of the image, whose probabilities are averaged
    flip: bool = False  # average with the mirrored image's
    crf: Mapping[str, Any] | None = None  # the arguments of models.crf.refine, afterwards

    @classmethod
    def of(cls, section: Mapping[str, Any] | None) -> "Inference":
        """From plain values; what has no effect is not kept, so that equal ways of asking are equal."""
        if section is None:
            return cls()
        tiled = section["tile"] is not None
        crf = section["crf"]
        return cls(
            tile=tuple(section["tile"]) if tiled else None,
            overlap=section["overlap"] if tiled else 0.0,
            context=section["context"] if tiled else 0,
            scales=tuple(section["scales"]),
            flip=section["flip"],
            crf=dict(crf) if crf and crf["iterations"] else None,
        )

    @property
    def plain(self) -> bool:
        return self == Inference()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def identify(self, weights: str) -> str:
        """A hash of weights, as long as they are asked plainly; else it also says how they are asked."""
        return weights if self.plain else f"{weights}-{files.digest(self.to_json())[:16]}"
