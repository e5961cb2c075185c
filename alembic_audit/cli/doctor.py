"""``alembic-audit doctor``."""

import dataclasses
import importlib
import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from alembic_audit import doctor, tables
from alembic_audit.cli import connect
from alembic_audit.cli.errors import EXIT_FINDINGS, EXIT_HEALTHY, CliError
from alembic_audit.cli.output import plain_console
from alembic_audit.cli.text import escaped
from alembic_audit.doctor import Finding
from alembic_audit.doctor import values as kinds
from alembic_audit.doctor.replay import Progress
from alembic_audit.errors import AuditError
from alembic_audit.spec import AuditSpec

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from alembic_audit.autogenerate.models import Models

_STYLES = {kinds.ERROR: "bold red", kinds.WARNING: "yellow", kinds.INFO: "cyan"}


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found in one database.

    Attributes:
        database: Its name.
        models: What the models were taken from; None without models.
        examination: The findings.
    """

    database: str
    models: str | None
    examination: doctor.Examination


def add_to(commands: "_SubParsersAction[ArgumentParser]") -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "doctor",
        help="what is wrong with the trails of a database, and how to mend it",
        description="Examine audit trails. Exit code: 0 healthy (an info is no illness), "
        "1 findings, 2 could not run.",
    )
    connect.add_arguments(parser)
    parser.add_argument("-x", action="append", metavar="ARG", help="given to env.py, as Alembic's")
    parser.add_argument(
        "--metadata",
        metavar="MODULE:NAME",
        help="the models, with --url: package.module:Base.metadata",
    )
    parser.add_argument(
        "--coverage",
        action="store_true",
        help="a model that is neither audited nor refused with a reason is a finding",
    )
    parser.add_argument(
        "--replay",
        action="store_true",
        help="read every record of every trail, and compare what they come to with the tables",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


@contextmanager
def _progress(arguments: Namespace) -> Iterator[Progress | None]:
    """Show how far a replay is, on a terminal; not in what is piped or logged."""
    if not arguments.replay or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replaying")

        def show(table: str, keys: int) -> None:
            bar.update(task, description=f"replaying {escaped(table)}: {keys:,} keys")

        yield show


def run(arguments: Namespace) -> int:
    """Examine, and print what was found.

    Raises:
        CliError: It could not be done.
    """
    file = None
    if arguments.metadata is None or arguments.config:
        file = connect.config_file(arguments)
    if file is not None and arguments.metadata is not None:
        raise CliError("-c and --metadata exclude each other: env.py knows the models")
    if arguments.coverage and file is None and arguments.metadata is None:
        raise CliError("--coverage needs the models: write -c alembic.ini or --metadata")
    with _progress(arguments) as progress:
        if file is not None:
            reports = _by_env(arguments, file, progress)
        else:
            reports = [_by_url(arguments, progress)]
    findings = [one for report in reports for one in report.examination.findings]
    is_ill = any(one.severity != kinds.INFO for one in findings)
    if arguments.json:
        print(json.dumps(_as_json(reports, is_ill), indent=2))
    else:
        _print(reports)
    return EXIT_FINDINGS if is_ill else EXIT_HEALTHY


def _by_env(arguments: Namespace, file: str, progress: Progress | None) -> list[Report]:
    """Run env.py as ``alembic check`` does."""
    from alembic.config import Config
    from alembic.util import CommandError

    from alembic_audit.autogenerate.models import run_env

    reports: list[Report] = []

    def use(models: "Models") -> None:
        reports.append(_examine_models(models, file, arguments, progress))

    config = Config(
        None if file.endswith(".toml") else file,
        toml_file=file if file.endswith(".toml") else None,
        ini_section=arguments.name,
        cmd_opts=arguments,
    )
    try:
        run_env(config, use, sys.stderr)
    except (CommandError, AuditError) as error:
        raise CliError(escaped(str(error))) from error
    except CliError:
        raise
    except Exception as error:  # env.py is the user's, and may raise anything
        reason = str(error).strip().partition("\n")[0]
        raise CliError(escaped(f"env.py failed: {type(error).__name__}: {reason}")) from error
    return reports


def _examine_models(
    models: "Models", file: str, arguments: Namespace, progress: Progress | None
) -> Report:
    database = _database(models.connection)
    replay, coverage = arguments.replay, arguments.coverage
    if not models.metadatas:
        if coverage:
            raise CliError("--coverage needs the models, and env.py has no target_metadata")
        examination = doctor.examined(
            models.connection,
            replayed=replay,
            progress=progress,
            trusted_owners=arguments.trust_owner,
        )
        return Report(database, None, examination)
    found = doctor.examined(
        models.connection,
        models.specs,
        schemas=models.schemas,
        prefixes=models.prefixes,
        left_out=models.left_out,
        replayed=replay,
        progress=progress,
        trusted_owners=arguments.trust_owner,
    )
    if not models.is_switched_on:
        found.findings.insert(
            0,
            kinds.finding(
                kinds.PLUGIN_MISSING,
                "",
                "autogenerate_plugins in env.py does not list alembic_audit: neither alembic check "
                "nor autogenerate looks at audits",
            ),
        )
    if coverage:
        found.findings[:0] = doctor.coverage(models.metadatas)
    return Report(database, file, found)


def _by_url(arguments: Namespace, progress: Progress | None) -> Report:
    metadatas = None if arguments.metadata is None else _load(arguments.metadata)
    try:
        specs = None if metadatas is None else _specs(metadatas)
        with connect.connected(arguments.url) as connection:
            found = doctor.examined(
                connection,
                specs,
                replayed=arguments.replay,
                progress=progress,
                trusted_owners=arguments.trust_owner,
            )
            database = _database(connection)
        if arguments.coverage:
            found.findings[:0] = doctor.coverage(metadatas or ())
    except AuditError as error:
        raise CliError(escaped(str(error))) from error
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).strip().partition("\n")[0]
        raise CliError(f"the catalogs cannot be read: {escaped(reason)}") from error
    return Report(database, arguments.metadata, found)


def _specs(metadatas: Sequence[sa.MetaData]) -> list[AuditSpec]:
    specs = [one for metadata in metadatas for one in tables.derive_all(metadata)]
    tables.refuse_shared(specs, "public")
    return specs


def _load(name: str) -> list[sa.MetaData]:
    """Return the MetaData that ``package.module:Base.metadata`` names.

    Raises:
        CliError: It names none.
    """
    module, _, path = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module of the user's may raise anything
        raise CliError(
            escaped(f"--metadata {name} cannot be loaded: {type(error).__name__}: {error}")
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(found, sa.MetaData):
        found = getattr(found, "metadata", found)
    many = list(found) if isinstance(found, (list, tuple)) else [found]
    if not many or not all(isinstance(one, sa.MetaData) for one in many):
        raise CliError(escaped(f"--metadata {name} is no MetaData; write package.module:Base"))
    return many


def _database(connection: sa.Connection) -> str:
    return str(connection.scalar(sa.select(sa.func.current_database())))


def _as_json(reports: Sequence[Report], is_ill: bool) -> dict[str, Any]:
    return {
        "healthy": not is_ill,
        "databases": [
            {
                "database": report.database,
                "models": report.models,
                "tables": report.examination.tables,
                "findings": [dataclasses.asdict(one) for one in report.examination.findings],
            }
            for report in reports
        ],
    }


def _print(reports: Sequence[Report]) -> None:
    console = plain_console()
    for report in reports:
        if console.is_terminal:
            _print_tables(console, report)
        else:
            for one in report.examination.findings:
                print(f"{one.severity}: {escaped(one.table or report.database)}: {one.kind}")
                print(f"    {escaped(one.what)}")
                print(f"    mend: {escaped(one.cure)}")
        console.print(escaped(_summary(report)), soft_wrap=True)


def _print_tables(console: Any, report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    by_table: dict[str, list[Finding]] = {}
    for one in report.examination.findings:
        by_table.setdefault(one.table or f"database {report.database}", []).append(one)
    for name, findings in by_table.items():
        shown = Table(title=Text(escaped(name)), title_justify="left", title_style="bold")
        for heading in ("", "what is wrong", "how to mend it"):
            shown.add_column(heading, overflow="fold")
        for one in findings:
            what = Text(one.kind, style="bold").append(f"\n{escaped(one.what)}", style="not bold")
            shown.add_row(
                Text(one.severity, style=_STYLES[one.severity]), what, Text(escaped(one.cure))
            )
            shown.add_section()
        console.print(shown)


def _summary(report: Report) -> str:
    found = report.examination
    audited = f"{len(found.tables)} audited {'table' if len(found.tables) == 1 else 'tables'}"
    counted = Counter(one.severity for one in found.findings)
    numbers = [
        f"{counted[severity]} {severity}{'s' if counted[severity] > 1 else ''}"
        for severity in (kinds.ERROR, kinds.WARNING, kinds.INFO)
        if counted[severity]
    ]
    side = (
        f"models of {report.models}"
        if report.models is not None
        else "no models were given: the database side only"
    )
    return f"{report.database}: {audited}, {', '.join(numbers) or 'healthy'} ({side})"
