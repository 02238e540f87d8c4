"""Confusion matrices."""

from collections.abc import Iterator, Sequence

from markupsafe import Markup, escape

from pipelines.reporting.charts.svg import svg, text


def heat_map(counts: Sequence[Sequence[int]], names: Sequence[str], *, title: str) -> Markup:
    """A confusion matrix, each row in shares of its sum: what is right on the diagonal, what is wrong beside it.

    Shares below 0.1 % (of many classes: 0.5 %) could not be told from nothing, and are not drawn.
    """
    n = len(names)
    cell, least = (34, 0.001) if n <= 12 else (22, 0.001) if n <= 40 else (12, 0.005)
    size = 11 if n <= 40 else 9
    side = round(min(max(len(name) for name in names), 22) * size * 0.6) + 10
    width, height = side + n * cell + 4, side + n * cell + 20
    parts = [text(side + n * cell / 2, 11, "predicted", "middle", "tick")]
    for i, name in enumerate(names):
        at, shown = side + (i + 0.5) * cell, name if len(name) <= 22 else f"{name[:21]}…"
        parts.append(_label(side - 6, at + 20 + size / 3, shown, name, size, turned=False))
        parts.append(_label(at + size / 3, side + 14, shown, name, size, turned=True))
    for i, row in enumerate(counts):
        total = sum(row)
        parts.append(f'<g transform="translate({side},{side + 20 + i * cell})">')
        parts.append(f'<rect class="row" width="{n * cell}" height="{cell - 1}"/>')
        for j, count in enumerate(row):
            if total and count / total >= least:
                told = f"{names[i]} → {names[j]}: {count:,} pixels, {count / total:.1%} of {names[i]}"
                parts += _cell(j * cell, cell, count / total, told, right=i == j)
        parts.append("</g>")
    return svg(width, height, title, parts, "heat small" if n <= 12 else "heat")


def _cell(at: float, size: int, share: float, told: str, *, right: bool) -> Iterator[str]:
    # Small errors matter more than their share of the ink: the square root makes 1 % visible.
    ink = 0.08 + 0.92 * (share if right else share**0.5)
    kind = "right" if right else "wrong"
    yield f'<rect class="{kind}" x="{at}" width="{size - 1}" height="{size - 1}" opacity="{ink:.2f}">'
    yield f"<title>{escape(told)}</title></rect>"
    if size >= 34 and share >= 0.005:
        where = "cell bright" if ink > 0.6 else "cell"
        yield text(at + size / 2 - 0.5, size / 2 + 3.5, f"{share * 100:.0f}", "middle", where)


def _label(x: float, y: float, shown: str, name: str, size: int, *, turned: bool) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    anchor = "start" if turned else "end"
    return (
        f'<text class="tick" style="font-size:{size}px" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>'
        f"{escape(shown)}<title>{escape(name)}</title></text>"
    )
