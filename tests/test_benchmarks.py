"""The benchmarks run, and every figure on the page about speed comes out of the results."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import __main__, autogenerate, chart, plan, report
from benchmarks.systems import SYSTEMS
from tests.conftest import Database
from tools import postgres

RESULTS = report.read(__main__.RESULTS)
PEERS = sorted({system.package for system in SYSTEMS.values() if system.package})


@pytest.mark.filterwarnings("default")
def test_the_quick_run_measures_every_system_in_every_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m benchmarks --quick` fills a result file that the page can be made of."""
    if place := postgres.in_memory():
        monkeypatch.setattr("tempfile.tempdir", str(place))
    for package in PEERS:
        pytest.importorskip(package.replace("-", "_").lower())
    path = tmp_path / "results.json"
    __main__.main(["--quick", "--results", str(path)])
    results = json.loads(path.read_text())
    base = [cell for cell in results["cells"] if cell["factor"] == "base"]
    assert 7 == len(base)
    for cell in base:
        assert set(SYSTEMS) == set(cell["systems"])
        for times in cell["systems"].values():
            assert "over_cap_s" in times or all(each > 0 for each in times["cpu"] + times["wall"])
    (parts,) = (cell for cell in results["cells"] if cell["factor"] == "parts")
    assert {part.name for part in plan.PARTS} == set(parts["systems"])
    assert {"cells", "clients", "machine", "reading", "sizes"} == set(results)
    compared = json.loads(path.with_name("autogenerate.json").read_text())["tables"]["3"]["systems"]
    assert list(autogenerate.SYSTEMS) == list(compared)
    for name, cost in compared.items():
        package = autogenerate.SYSTEMS[name].package
        if package is None or autogenerate.version_of(package):
            assert all(cost[kind] > 0 for kind in autogenerate.KINDS), cost
        else:
            assert cost["failed"].startswith("ModuleNotFoundError: "), cost
    upgraded = json.loads(path.with_name("upgrade.json").read_text())
    assert all(upgraded[kind]["ours"] > 0 for kind in autogenerate.KINDS)
    assert "{" not in report.page(report.read(path), report.TEMPLATE.read_text())
    assert report.picture(results).count("<circle") > len(SYSTEMS)


def test_the_page_is_made_of_the_committed_results() -> None:
    """Page and chart are those that the committed results give."""
    page = (report.DOCS / "performance.md").read_text()
    assert report.page(RESULTS, report.TEMPLATE.read_text()) == page
    assert report.picture(RESULTS) == (report.DOCS / "performance.svg").read_text()


def test_no_figure_is_written_by_hand() -> None:
    """The template holds no measured number: no decimals, percentages or microseconds."""
    template = report.TEMPLATE.read_text()
    assert {"95 %"} == set(re.findall(r"\d+\.\d+|\d+ ?%|\d+ ?µs|\d+ ?ms", template))


def test_results_name_no_host_and_no_path() -> None:
    """What is committed tells the machine's kind, not its name or where things are."""
    files = [
        __main__.RESULTS,
        *(__main__.RESULTS.with_name(f"{one}.json") for one in report.BESIDE),
    ]
    text = "".join(file.read_text() for file in files)
    assert [] == re.findall(r'"[^"]*/(?:home|tmp|root|usr|work)\b[^"]*"', text)
    assert {
        "cores",
        "cpu",
        "date",
        "kernel",
        "load",
        "packages",
        "postgresql",
        "python",
        "settings",
    } == set(RESULTS["machine"])


def test_the_interval_is_that_of_the_order() -> None:
    """Of nine values the second and the eighth hold the median with more than 95 %."""
    assert (5, 2, 8) == report.interval([9, 1, 8, 2, 7, 3, 6, 4, 5])


def test_parts_that_are_measured_again_replace_the_former_ones() -> None:
    """--only keeps the other cells of the result file."""

    def cell(factor: str, workload: str, number: int) -> dict[str, object]:
        return {"factor": factor, "workload": workload, "systems": {"none": {"cpu": [number]}}}

    old = {"machine": {"cores": 1}, "cells": [cell("base", "a", 1), cell("base", "b", 1)]}
    new = {"machine": {"cores": 2}, "cells": [cell("base", "b", 2)]}
    expected = {"machine": {"cores": 2}, "cells": [cell("base", "a", 1), cell("base", "b", 2)]}
    assert expected == report.merged(old, new)


def test_a_part_with_a_file_of_its_own_leaves_the_others_alone(tmp_path: Path) -> None:
    """--only upgrade writes upgrade.json, not results.json, and reading brings both together."""
    path = tmp_path / "results.json"
    path.write_text('{"machine": {"cores": 1}}')
    __main__.save({"machine": {"cores": 2}, "upgrade": [{"rounds": 5}]}, path, merge=True)
    assert '{"machine": {"cores": 1}}' == path.read_text()
    assert {"machine": {"cores": 1}, "upgrade": {"rounds": 5}} == report.read(path)


def test_a_system_without_figures_says_why() -> None:
    """In the table of autogenerate: seconds, times those of plain, the cap, or the error."""
    plain = {"cpu": 1.0, "server": 1.0}
    systems = {
        "plain on N": plain,
        "ours": {"cpu": 1.5, "server": 1.0},
        "slow": {"over_cap_s": 60},
        "broken": {"failed": "OutOfMemory: out of shared memory"},
    }
    results = {"autogenerate": {"tables": {"1000": {"systems": systems}, "5000": {"systems": {}}}}}
    expected = """\
|  | 1,000 tables | 5,000 tables |
| --- | ---: | ---: |
| plain on N | 2.00 s, 1.00 | - |
| ours | 2.50 s, 1.25 | - |
| slow | > 60 s | - |
| broken | OutOfMemory | - |"""
    assert expected == report.autogenerate(results)
    assert "1.25" == report.autogenerated(results, "1000", "plain on N")


def test_a_worker_that_needs_too_long_is_ended(database: Database) -> None:
    """A peer over the cap is out, its process is gone, and later rounds do not wait for it."""
    system = autogenerate.SYSTEMS["plain on N"]
    url = database.engine.url.render_as_string(hide_password=False)
    worker = autogenerate.Worker(system, url, 50)
    worker.pipe.send(True)
    assert {} == worker.receive(0)
    worker.round()
    assert {"over_cap_s": 0} == worker.result()
    assert not worker.process.is_alive()


def test_a_chart_shows_no_dot_where_nothing_was_measured() -> None:
    """A series has a dot in the legend and one for each value; names are escaped."""
    drawn = chart.dots(["a", "b"], {"<x>": [(1.0, 1.1, 1.2), None]}, "title")
    assert 2 == drawn.count("<circle")
    assert "&lt;x&gt;" in drawn


def test_a_chart_of_many_series_tells_them_apart() -> None:
    """Each has a color of its own, and the legend ends above the first band."""
    many = {f"series {number}": [(1.0, 1.1, 1.2)] for number in range(11)}
    drawn = chart.dots(["a"], many, "title")
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="4" fill="(#\w+)"/>', drawn)
    assert 11 == len({color for _, _, color in circles})
    legend, dots = circles[::2], circles[1::2]
    (top,) = re.findall(r'<path class="limit" d="M[\d.]+ (\d+)V', drawn)
    assert max(float(y) for _, y, _ in legend) + chart.LINE <= float(top)
    assert min(float(y) for _, y, _ in dots) > float(top)
