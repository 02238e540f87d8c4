"""Reliability diagrams."""

from collections.abc import Sequence

from markupsafe import Markup

from pipelines.metrics.calibration import Bin
from pipelines.reporting.charts.svg import bar, grid, svg, text


def reliability(bins: Sequence[Bin], *, of: str = "pixels", said: str = "probability of the predicted class") -> Markup:
    """What a model's own probabilities are worth: in each bin the share of pixels (or detections: what the bins are
    `of`) that is right, beside the diagonal on which it would equal what the model said; below, the bins' shares of
    all."""
    side, left, top, strip = 260, 40, 22, 44
    base, foot = top + side, top + side + 44 + strip
    width, height = left + side + 12, foot + 20

    def place(p: tuple[float, float]) -> tuple[float, float]:
        return left + p[0] * side, base - p[1] * side

    parts = [*grid(place, (0, 1), (0, 1)), text(left, 11, "share that is right", "start")]
    most = max(b.share for b in bins)
    for b in bins:
        at, wide = left + b.low * side + 0.5, (b.high - b.low) * side - 1
        (low, high), tall = sorted((b.accuracy, b.confidence)), max(b.share / most * strip, 1)
        told = f"said {b.confidence:.1%}, right {b.accuracy:.1%}: {b.share:.2%} of the {of}"
        parts.append(f"<g><title>{told}</title>")
        parts.append(bar("bar", at, base - low * side, wide, low * side))
        parts.append(bar("gap", at, base - high * side, wide, (high - low) * side))
        parts.append(bar("share", at, foot - tall, wide, tall) + "</g>")
    parts.append(f'<line class="equal" x1="{left}" y1="{base}" x2="{left + side}" y2="{top}"/>')
    parts.append(f'<line class="axis" x1="{left}" x2="{left + side}" y1="{foot}" y2="{foot}"/>')
    parts.append(text(left, foot - strip - 8, f"share of all {of}, up to {most:.0%}", "start"))
    parts.append(text(left + side, foot + 15, said, "end"))
    return svg(width, height, f"Reliability: the share of {of} that is right, by the {said}", parts)
