"""A chart of dots, as SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Spread = tuple[float, float, float]
"""First quartile, median, third quartile."""

COLORS = [
    "#0b6e4f",
    "#e6550d",
    "#3182bd",
    "#c994c7",
    "#7a5195",
    "#a1d99b",
    "#8c6d31",
    "#6b6ecf",
    "#ffa600",
    "#de2d26",
    "#8a8a8a",
    "#17becf",
]
"""One for each series: whoever draws more has to choose more."""

LEFT, WIDTH, BAND = 110, 560, 13
"""Pixels: where the axis begins, its length, the height of one system."""

COLUMNS, ENTRY, LINE = 2, 300, 16
"""The legend: how many columns, and the pixels of an entry's width and height."""

STYLE = """\
<style>
text { font: 12px sans-serif; fill: #333 }
.grid { stroke: #ccc } .limit { stroke: #333 }
@media (prefers-color-scheme: dark) {
text { fill: #ddd } .grid { stroke: #444 } .limit { stroke: #ddd }
}
</style>"""


def dots(rows: Sequence[str], series: Mapping[str, Sequence[Spread | None]], title: str) -> str:
    """Return a chart: a band for each row, in it a dot and a line of quartiles for each series.

    Args:
        rows: Names of the rows, from above.
        series: Name of each series to its value in each row, or None where there is none.
        title: What the axis, which is logarithmic, shows; 1 has a line of its own.
    """
    values = [value for spreads in series.values() for value in filter(None, spreads)]
    lowest = min([0.9, *(low for low, _, _ in values)])
    highest = max([2.0, *(high for _, _, high in values)])

    def x(value: float) -> float:
        share = math.log(value / lowest) / math.log(highest / lowest)
        return round(LEFT + WIDTH * share, 1)

    top = 28 + LINE * math.ceil(len(series) / COLUMNS)
    height = BAND * (len(series) + 1)
    bottom = top + height * len(rows)
    lines = [STYLE, f'<text x="{LEFT}" y="14">{escape(title)}</text>']
    ticks = [tick for tick in (1, 1.5, 2, 3, 5, 10, 20, 50, 100, 1000) if lowest <= tick <= highest]
    for tick in ticks:
        kind = "limit" if tick == 1 else "grid"
        lines.append(f'<path class="{kind}" d="M{x(tick)} {top}V{bottom}"/>')
        lines.append(f'<text x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for number, name in enumerate(rows):
        y = top + height * number
        lines.append(f'<path class="grid" d="M0 {y}H{LEFT + WIDTH}"/>')
        lines.append(f'<text x="4" y="{y + height / 2 + 4:g}">{escape(name)}</text>')
    for number, ((name, spreads), color) in enumerate(
        zip(series.items(), COLORS[: len(series)], strict=True)
    ):
        line, column = divmod(number, COLUMNS)
        left, y = LEFT + ENTRY * column, 28 + LINE * line
        lines.append(f'<circle cx="{left}" cy="{y}" r="4" fill="{color}"/>')
        lines.append(f'<text x="{left + 8}" y="{y + 4}">{escape(name)}</text>')
        for row, spread in enumerate(spreads):
            if spread:
                y = top + height * row + BAND * (number + 1)
                low, middle, high = map(x, spread)
                lines.append(f'<path stroke="{color}" d="M{low} {y}H{high}"/>')
                lines.append(f'<circle cx="{middle}" cy="{y}" r="4" fill="{color}"/>')
    size = f'viewBox="0 0 {LEFT + WIDTH + 40} {bottom + 24}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n' + "\n".join(lines) + "\n</svg>\n"
