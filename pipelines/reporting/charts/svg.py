"""What all charts are made of: text, axes, bars, and the picture around them."""

from collections.abc import Callable, Iterator, Sequence
from math import floor, log10
from pathlib import Path

from markupsafe import Markup, escape

LABEL = 13  # pixels between the names of two lines
STYLE = Path(__file__).with_suffix(".css")
MARGIN, TITLED = 14, 24  # pixels around a chart that is a file of its own, and above it


def number(value: float | None) -> str:
    """Three digits that count; an en dash where nothing is defined."""
    if value is None:
        return "–"
    if value == 0 or 0.001 <= abs(value) <= 1:
        return f"{value:.3f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def bar(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def grid(
    place: Callable[[tuple[float, float]], tuple[float, float]], x: tuple[float, float], y: tuple[float, float]
) -> Iterator[str]:
    (left, _), (right, bottom) = place((x[0], y[0])), place((x[1], y[0]))
    for value in ticks(*y, 4):
        at = place((x[0], value))[1]
        yield f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield text(left - 6, at + 4, f"{value:g}", "end", "tick")
    for value in ticks(*x, 5):
        yield text(place((value, y[0]))[0], bottom + 14, f"{value:g}", "middle", "tick")


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round values between low and high, about `count`."""
    rough = (high - low) / count or 1.0
    power = 10.0 ** floor(log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first = -floor(-low / step + 1e-9)
    return [round(k * step, 12) for k in range(first, floor(high / step + 1e-9) + 1)]


def padded(values: Sequence[float]) -> tuple[float, float]:
    """From 0 where the values are positive, with some air above."""
    low, high = min(0.0, min(values)), max(values)
    return low, high + 0.05 * (high - low) or 1.0


def anchor(share: float) -> str:
    """Text at the ends of an axis stays within the picture."""
    return "start" if share < 0.15 else "end" if share > 0.85 else "middle"


def apart(heights: Sequence[float], top: float, bottom: float) -> list[float]:
    """The heights of labels, moved so that none covers another, the block kept between top and bottom."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = list(heights)
    at = top - LABEL
    for i in order:
        at = placed[i] = max(placed[i], at + LABEL)
    at = bottom + LABEL
    for i in reversed(order):
        at = placed[i] = min(placed[i], at - LABEL)
    return placed


def svg(width: float, height: float, title: str, parts: Sequence[str], kind: str = "chart") -> Markup:
    head = f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img"'
    return Markup(f'{head} aria-label="{escape(title)}">{"".join(parts)}</svg>')  # noqa: S704 - each name is escaped


def standalone(chart: Markup) -> str:
    """The chart as a file of its own, on white and under its title: for `dvc plots`, for MLflow, for a slide."""
    head, _, rest = chart.partition(">")
    width, height, said = (head.split(f' {name}="')[1].split('"')[0] for name in ("width", "height", "aria-label"))
    wide, tall = max(float(width), len(said) * 7.0) + 2 * MARGIN, float(height) + 2 * MARGIN + TITLED
    style = f"svg {{ font-family: system-ui, sans-serif; }}\n{STYLE.read_text(encoding='utf-8')}"
    frame = f'viewBox="{-MARGIN} {-MARGIN - TITLED} {wide:g} {tall:g}" width="{wide:g}" height="{tall:g}"'
    paper = f'<rect x="{-MARGIN}" y="{-MARGIN - TITLED}" width="100%" height="100%" fill="#fff"/>'
    title = f'<text class="name" x="0" y="{8 - TITLED}">{said}</text>'
    root = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" {frame} role="img" aria-label="{said}">'
    return f"{root}<style>{style}</style>{paper}{title}{rest}\n"
