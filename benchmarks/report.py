"""Results to the page docs/performance.md and its chart: every figure comes from the results.

`page.md` is the page with holes: `{ratio base/insert/row}` calls `ratio` with what follows.
"""

import json
import math
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import chart, plan
from benchmarks.systems import LIMIT, SYSTEMS

Results = dict[str, Any]

DOCS = Path(__file__).parents[1] / "docs"
TEMPLATE = Path(__file__).parent / "page.md"
BESIDE = ("autogenerate", "upgrade")
"""Parts of the results that have a file of their own, beside that of the others."""


def read(path: Path) -> Results:
    """Return the results in a file and in those beside it."""
    results: Results = json.loads(path.read_text())
    for name in BESIDE:
        beside = path.with_name(f"{name}.json")
        if beside.exists():
            results[name] = json.loads(beside.read_text())
    return results


def as_json(results: Results) -> str:
    """Return the text of a result file, one cell in each line or so."""
    text = json.dumps(results, indent=1, sort_keys=True)
    # A list of numbers in one line.
    return re.sub(r"\[\s+([-\d.,\s]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


def merged(old: Results, new: Results) -> Results:
    """Return former results with those parts replaced that were measured again."""
    merged = dict(old)
    for key, found in new.items():
        if key == "cells":
            again = {(cell["factor"], cell["workload"]) for cell in found}
            kept = [c for c in old.get(key, []) if (c["factor"], c["workload"]) not in again]
            merged[key] = kept + found
        else:
            merged[key] = found
    return merged


# -- figures ---------------------------------------------------------------------------------


def _cell(results: Results, factor: str, workload: str) -> dict[str, Any] | None:
    for cell in results.get("cells", ()):
        if (cell["factor"], cell["workload"]) == (factor, workload):
            systems: dict[str, Any] = cell["systems"]
            return systems
    return None


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    first, middle, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, middle, third


def ratios(results: Results, factor: str, workload: str, system: str) -> list[float] | None:
    """Return the ratio to the limit in each round; None if it was not measured or broke the cap."""
    cell = _cell(results, factor, workload)
    if cell is None or "cpu" not in cell.get(system, {}):
        return None
    return [a / b for a, b in zip(cell[system]["cpu"], cell[LIMIT]["cpu"], strict=True)]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, and its 95 % confidence interval by the order of the values.

    It assumes nothing of how they are distributed. With 9 values it is the second to the eighth.
    """
    ordered, count = sorted(values), len(values)
    below = 0.0
    index = -1
    while below <= 0.025 and index < count // 2:
        index += 1
        below += math.comb(count, index) / 2**count
    index = max(index - 1, 0)
    return statistics.median(ordered), ordered[index], ordered[count - 1 - index]


def cpu(results: Results, factor: str, workload: str, system: str) -> str:
    """Microseconds of CPU for each row changed."""
    cell = _cell(results, factor, workload)
    return f"{statistics.median(cell[system]['cpu']):.1f}" if cell else MISSING


def ratio(results: Results, factor: str, workload: str, system: str) -> str:
    """The median ratio to the limit."""
    values = ratios(results, factor, workload, system)
    return f"{statistics.median(values):.2f}" if values else MISSING


def unaudited(results: Results, factor: str, workload: str, system: str) -> str:
    """How many times the CPU of no audit a system needs, paired by round."""
    cell = _cell(results, factor, workload)
    if cell is None or "cpu" not in cell.get(system, {}):
        return MISSING
    pairs = zip(cell[system]["cpu"], cell["none"]["cpu"], strict=True)
    return f"{statistics.median(a / b for a, b in pairs):.1f}"


def difference(
    results: Results, workload: str, system: str, other: str, factor: str = "base"
) -> str:
    """Microseconds that a system needs more than another, paired by round, with its interval."""
    cell = _cell(results, factor, workload)
    if cell is None or not all("cpu" in cell.get(name, {}) for name in (system, other)):
        return MISSING
    pairs = zip(cell[system]["cpu"], cell[other]["cpu"], strict=True)
    middle, low, high = interval([a - b for a, b in pairs])
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"


def differences(results: Results, system: str) -> str:
    """Table: what each other system needs more than one of ours, on single rows."""
    others = [name for name in SYSTEMS if name not in ("none", system)]
    lines = [
        [SYSTEMS[name].title]
        + [
            difference(results, workload, name, system)
            for workload in ("insert", "update", "delete")
        ]
        for name in others
    ]
    return _table(["", "INSERT", "UPDATE", "DELETE"], lines)


def parts(results: Results) -> str:
    """Table: microseconds of a single row that ours needs for each thing that a trail promises."""
    first, *others = plan.PARTS
    lines = [
        [part.title]
        + [
            difference(results, workload, first.name, part.name, "parts")
            for workload in ("insert", "update", "delete")
        ]
        for part in others
    ]
    return _table(["", "INSERT", "UPDATE", "DELETE"], lines)


MISSING = "-"


def _spread(values: Sequence[float] | None) -> str:
    if not values:
        return MISSING
    low, middle, high = _quartiles(values)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def _workloads(results: Results, factor: str) -> list[str]:
    return [cell["workload"] for cell in results.get("cells", ()) if cell["factor"] == factor]


def base(results: Results) -> str:
    """Table: the base cell, ratios to the limit, of every system."""
    names = _workloads(results, "base")
    lines = []
    for system in SYSTEMS:
        line = [SYSTEMS[system].title]
        for name in names:
            cell = _cell(results, "base", name)
            assert cell is not None
            over = cell.get(system, {}).get("over_cap_s")
            line.append(f"> {over:g} s" if over else _spread(ratios(results, "base", name, system)))
        lines.append(line)
    times = ["the limit, µs for a row", *(cpu(results, "base", name, LIMIT) for name in names)]
    return _table(["", *names], [*lines, times])


def factors(results: Results, system: str) -> str:
    """Table: one difference to the base cell each, the ratio of a system to the limit."""
    names = _workloads(results, "base")
    found = dict.fromkeys(cell["factor"] for cell in results.get("cells", ()))
    lines = [
        [factor, *(_spread(ratios(results, factor, name, system)) for name in names)]
        for factor in found
        if factor not in ("ORM", "length", "parts")
    ]
    return _table([SYSTEMS[system].title, *names], lines)


def lengths(results: Results) -> str:
    """Table: what a single row costs with a short and a long history, and without its index."""
    names = ("insert", "update", "delete")
    titles = {
        "statement": "none",
        "long": "5 million",
        "long_no_index": "5 million, no index by key",
    }
    lines = []
    for system, title in titles.items():
        line = [title]
        for name in names:
            cell = _cell(results, "length", name)
            if cell is None:
                line.append(MISSING)
                continue
            pairs = zip(cell[system]["cpu"], cell["statement"]["cpu"], strict=True)
            ratio = _spread([a / b for a, b in pairs])
            line.append(f"{statistics.median(cell[system]['cpu']):.1f} µs, {ratio}")
        lines.append(line)
    return _table(["records before", *names], lines)


def sizes(results: Results) -> str:
    """Table: bytes of a row and of a record."""
    lines = [
        [name, *(f"{size[kind]:.1f}" for kind in ("row", "heap", "indexes"))]
        for found in results.get("sizes", ())
        for name, size in found["sizes"].items()
    ]
    return _table(["system, table", "row", "heap", "indexes"], lines)


def clients(results: Results) -> str:
    """Table: transactions per second as a share of those without audit, paired by round."""
    lines = []
    for found in results.get("clients", ()):
        for system in (name for name in SYSTEMS if name in found["tps"]):
            values = found["tps"][system]
            shares = [a / b for a, b in zip(values, found["tps"]["none"], strict=True)]
            lines.append(
                [
                    str(found["clients"]),
                    SYSTEMS[system].title,
                    _spread(shares),
                    f"{statistics.median(values):,.0f}",
                ]
            )
    return _table(["clients", "", "share of no audit", "transactions per second"], lines)


def reading(results: Results) -> str:
    """Table: reading the records of one row."""
    lines = [
        [f"{one['history']:,}", one["indexes"], f"{statistics.median(one['cpu']):,.0f}"]
        for one in results.get("reading", ())
    ]
    return _table(["records", "indexes", "µs"], lines)


def _both(cost: dict[str, Any]) -> float:
    """Seconds of CPU of client and server together."""
    return float(cost["cpu"] + cost["server"])


def autogenerate(results: Results) -> str:
    """Table: CPU seconds of an autogenerate that finds nothing, and times plain on N tables."""
    cells = results.get("autogenerate", {}).get("tables", {})
    names = dict.fromkeys(name for cell in cells.values() for name in cell["systems"])
    lines = [
        [name, *(_seconds(cell["systems"], name) for cell in cells.values())] for name in names
    ]
    return _table(["", *(f"{int(count):,} tables" for count in cells)], lines)


def _seconds(systems: dict[str, Any], name: str) -> str:
    cost = systems.get(name)
    if cost is None:
        return MISSING
    if "over_cap_s" in cost:
        return f"> {cost['over_cap_s']:g} s"
    if "failed" in cost:
        return str(cost["failed"]).partition(":")[0]
    seconds = _both(cost)
    return f"{seconds:.2f} s, {seconds / _both(systems['plain on N']):.2f}"


def autogenerated(results: Results, count: str, base: str) -> str:
    """How many times the CPU seconds of plain Alembic, on N or on 2N tables, ours needs."""
    cell = results.get("autogenerate", {}).get("tables", {}).get(count)
    if cell is None:
        return MISSING
    return f"{_both(cell['systems']['ours']) / _both(cell['systems'][base]):.2f}"


def autogenerate_versions(results: Results) -> str:
    """The versions that autogenerate was measured with."""
    found = results.get("autogenerate", {"packages": {}})
    packages = [f"{name} {version}" for name, version in found["packages"].items() if version]
    return ", ".join(packages) or MISSING


def upgrade(results: Results) -> str:
    """Table: CPU seconds of a migration that begins many trails, and of its statements alone."""
    found = results.get("upgrade")
    if found is None:
        return MISSING
    lines = []
    for title, kinds in (("client", ["cpu"]), ("client and server", ["cpu", "server"])):
        ours, plain = (sum(found[kind][name] for kind in kinds) for name in ("ours", "plain"))
        lines.append([title, f"{ours:.2f}", f"{plain:.2f}", f"{ours / plain:.2f}"])
    return _table(["CPU time of", "the operation, s", "op.execute, s", "ratio"], lines)


def triggers(results: Results) -> str:
    """Of how many tables a migration began the trails."""
    found = results.get("upgrade")
    return f"{found['triggers']:,}" if found else MISSING


def machine(results: Results) -> str:
    """One sentence about the machine."""
    facts = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    settings = ", ".join(f"`{key} = {value}`" for key, value in sorted(facts["settings"].items()))
    return (
        f"PostgreSQL {facts['postgresql']} on {facts['kernel']}, {facts['cpu']}, {facts['cores']} "
        f"cores, on {facts['date']}, with a load of {facts['load']:.1f} before; Python "
        f"{facts['python']}, {packages}. "
        f"Settings beside PostgreSQL's defaults: {settings}."
    )


def rounds(results: Results, workload: str) -> str:
    """How many rounds the base cell of a workload had."""
    cell = _cell(results, "base", workload)
    return str(len(cell[LIMIT]["cpu"])) if cell else MISSING


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] + ["---:"] * (len(head) - 1), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


FIGURES: dict[str, Callable[..., str]] = {
    figure.__name__: figure
    for figure in (
        autogenerate,
        autogenerate_versions,
        autogenerated,
        base,
        clients,
        cpu,
        difference,
        differences,
        factors,
        lengths,
        machine,
        parts,
        ratio,
        reading,
        rounds,
        sizes,
        triggers,
        unaudited,
        upgrade,
    )
}


def page(results: Results, template: str) -> str:
    """Return the page: the template with its holes filled."""

    def fill(hole: "re.Match[str]") -> str:
        return FIGURES[hole[1]](results, *filter(None, (hole[2] or "").strip().split("/")))

    return re.sub(r"\{(\w+)( [^{}]+)?\}", fill, template)


def picture(results: Results) -> str:
    """Return the chart of the base cell."""
    names = _workloads(results, "base")
    series = {}
    for system in SYSTEMS.values():
        if system.name in (LIMIT, "none"):
            continue
        found = [ratios(results, "base", name, system.name) for name in names]
        series[system.title] = [_quartiles(values) if values else None for values in found]
    return chart.dots(names, series, "CPU of the server, as a ratio to the limit")


def write(results: Results) -> None:
    """Write the page and the chart into docs/."""
    (DOCS / "performance.md").write_text(page(results, TEMPLATE.read_text()))
    (DOCS / "performance.svg").write_text(picture(results))
