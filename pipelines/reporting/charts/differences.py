"""What has changed between two models, a bar each to the left or to the right."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from pipelines.reporting.charts.svg import bar, number, svg, text, ticks

ROW, TOP, RIGHT = 22, 6, 72


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Of one class, or of all."""

    name: str
    value: float
    interval: tuple[float, float] | None

    @property
    def sure(self) -> bool:
        """Its interval does not hold 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def differences(rows: Sequence[Difference], *, title: str, width: int = 470) -> Markup:
    """From the top down, each with its interval as a whisker; pale, where that holds 0."""
    left = 12 + min(max(len(row.name) for row in rows), 24) * 6.8
    low = min(0.0, *(v for row in rows for v in (row.value, *(row.interval or ()))))
    high = max(0.0, *(v for row in rows for v in (row.value, *(row.interval or ()))))
    low, high = (low, high) if high > low else (-0.01, 0.01)
    base = TOP + len(rows) * ROW

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - RIGHT)

    parts = []
    for value in ticks(low, high, 5):
        at = place(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{base}"/>')
        parts.append(text(at, base + 15, f"{value:+g}" if value else "0", "middle"))
    for i, row in enumerate(rows):
        top, (start, end) = TOP + i * ROW, sorted((place(0), place(row.value)))
        kind = ("gain" if row.value > 0 else "loss") + ("" if row.sure else " unsure")
        ends = f", 95 %: {row.interval[0]:+.3f} to {row.interval[1]:+.3f}" if row.interval else ""
        parts.append(f"<g><title>{escape(row.name)} {row.value:+.3f}{ends}</title>")
        name = row.name if len(row.name) <= 24 else f"{row.name[:23]}…"
        parts.append(text(left - 8, top + 15, name, "end", "label"))
        parts.append(bar(kind, start, top + 4, end - start, ROW - 8))
        if row.interval:
            a, b, y = place(row.interval[0]), place(row.interval[1]), top + ROW / 2
            parts.append(f'<path class="whisker" d="M{a:.1f} {y}H{b:.1f}M{a:.1f} {y - 4}v8M{b:.1f} {y - 4}v8"/>')
        parts.append(text(width - 4, top + 15, f"{row.value:+.3f}" if row.value else number(0.0), "end") + "</g>")
    zero = place(0)
    parts.append(f'<line class="axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="{TOP}" y2="{base}"/>')
    return svg(width, base + 20, title, parts)
