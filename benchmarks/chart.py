"""A chart of dots, as SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Spread = tuple[float, float, float]
"""First quartile, median, third quartile."""

COLORS = ["#0b6e4f", "#2f9e76", "#c1440e", "#7a5195", "#b58db6", "#003f5c", "#8a8a8a", "#ffa600"]
LEFT, WIDTH, TOP, BAND = 110, 560, 60, 13
"""Pixels: where the axis begins, its length, the legend's height, the height of one system."""

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

    height = BAND * (len(series) + 1)
    bottom = TOP + height * len(rows)
    lines = [STYLE, f'<text x="{LEFT}" y="14">{escape(title)}</text>']
    ticks = [tick for tick in (1, 1.5, 2, 3, 5, 10, 20, 50, 100, 1000) if lowest <= tick <= highest]
    for tick in ticks:
        kind = "limit" if tick == 1 else "grid"
        lines.append(f'<path class="{kind}" d="M{x(tick)} {TOP}V{bottom}"/>')
        lines.append(f'<text x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for number, name in enumerate(rows):
        y = TOP + height * number
        lines.append(f'<path class="grid" d="M0 {y}H{LEFT + WIDTH}"/>')
        lines.append(f'<text x="4" y="{y + height / 2 + 4:g}">{escape(name)}</text>')
    for number, (name, spreads) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        column, line = number % 4, number // 4
        lines.append(
            f'<circle cx="{LEFT + 150 * column}" cy="{28 + 16 * line}" r="4" fill="{color}"/>'
        )
        lines.append(
            f'<text x="{LEFT + 150 * column + 8}" y="{32 + 16 * line}">{escape(name)}</text>'
        )
        for row, spread in enumerate(spreads):
            if spread:
                y = TOP + height * row + BAND * (number + 1)
                low, middle, high = map(x, spread)
                lines.append(f'<path stroke="{color}" d="M{low} {y}H{high}"/>')
                lines.append(f'<circle cx="{middle}" cy="{y}" r="4" fill="{color}"/>')
    size = f'viewBox="0 0 {LEFT + WIDTH + 40} {bottom + 24}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n' + "\n".join(lines) + "\n</svg>\n"
