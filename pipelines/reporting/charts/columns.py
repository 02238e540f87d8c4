"""Shares by size, and of how many."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from pipelines.reporting.charts.svg import bar, number, svg, text

LEFT, RIGHT, TOP, BASE, FOOT = 40, 8, 30, 176, 62


def columns(
    names: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    counts: Sequence[int],
    *,
    groups: Mapping[str, tuple[int, int]],
    title: str,
    x: str,
) -> Markup:
    """A column of 0..1 for each of the `series` at each of the `names`, under which stand the `counts`; `groups` names
    the first and the last of some neighbours. What is undefined is left out."""
    width = 460
    each = (width - LEFT - RIGHT) / len(names)
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        at = BASE - tick * (BASE - TOP)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(text(LEFT - 6, at + 4, f"{tick:g}", "end"))
    wide = each * 0.7 / len(series)
    for k, (name, values) in enumerate(series.items()):
        parts.append(bar(f"fill s{k}", LEFT + k * 150, 4, 10, 10) + text(LEFT + k * 150 + 16, 13, name, "start"))
        for i, value in enumerate(values):
            if value is None:
                continue
            told = f"{name}, {names[i]} {x}: {number(value)} of {counts[i]:,}"
            tall = max(value * (BASE - TOP), 1)
            left = LEFT + (i + 0.15) * each + k * wide
            column = bar(f"fill s{k}", left, BASE - tall, wide - 1.5, tall)
            parts.append(f"<g><title>{escape(told)}</title>{column}</g>")
    for i, (name, count) in enumerate(zip(names, counts, strict=True)):
        middle = LEFT + (i + 0.5) * each
        parts.append(text(middle, BASE + 15, name, "middle", "label"))
        parts.append(text(middle, BASE + 30, f"{count:,}", "middle"))
    for name, (first, last) in groups.items():
        start, end = LEFT + first * each + 6, LEFT + (last + 1) * each - 6
        parts.append(f'<path class="bracket" d="M{start:.1f} {BASE + 37}v4H{end:.1f}v-4"/>')
        parts.append(text((start + end) / 2, BASE + 54, name, "middle"))
    return svg(width, BASE + FOOT, title, parts)
