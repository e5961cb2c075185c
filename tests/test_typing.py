"""What type checkers say of generated migrations, of declarations, and of the public API."""

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
import typing
from importlib.util import find_spec
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.operations import Operations

import alembic_audit
from alembic_audit import options
from alembic_audit.operations import (
    AlterAuditColumnOp,
    CreateAuditSchemaOp,
    DropAuditColumnOp,
    DropAuditSchemaOp,
    DropAuditTableOp,
    DropAuditTriggerOp,
    LockAuditedTablesOp,
    NumberAuditTableOp,
    PurgeAuditTableOp,
    RestoreAuditTriggerOp,
)
from alembic_audit.spec import AuditSpec
from tests.conftest import Database
from tests.test_drivers import Initialized, first, second

ROOT = Path(alembic_audit.__file__).parents[1]

# Under --strict an ignore that is not needed is an error: each one below proves a complaint.
SAMPLE = """
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from alembic_audit import (
    AuditSpec,
    audit_table,
    audited,
    enable,
    install_audit_triggers,
    op,
    uninstall_audit_triggers,
)


class Base(DeclarativeBase):
    pass


@audited(session_settings=[sa.Column("username", sa.Text)], operations=["insert", "update"])
class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)


Account(id=1).id + 1
Account(id=1).email  # type: ignore[attr-defined]
audited(enabeld=True)  # type: ignore[call-arg]
audited(operations=["upsert"])  # type: ignore[list-item]
audited(audit_columns="clasic")  # type: ignore[arg-type]
audited(skip_unchanged="yes")  # type: ignore[arg-type]

table = sa.Table("t", Base.metadata, sa.Column("id", sa.Integer, primary_key=True))
trail: sa.Table = audit_table(table, ignore_columns={"id"}, changed_columns=True)
audit_table("t")  # type: ignore[arg-type]
audit_table(table, exclude_columns=1)  # type: ignore[arg-type]
enable(1)  # type: ignore[call-arg]

engine = sa.create_engine("postgresql+psycopg://")
texts: list[str] = install_audit_triggers(Base.metadata)
uninstall_audit_triggers(Base.metadata, engine)
uninstall_audit_triggers(Base.metadata, "postgresql://")  # type: ignore[arg-type]
spec: AuditSpec = AuditSpec.from_kwargs("t", columns=["id"])
columns: tuple[str, ...] = spec.columns


def upgrade(anything: Any) -> None:
    op.create_table("t", sa.Column("id", sa.Integer))
    op.create_audit_trigger("t", columns=["id"])
    op.create_audit_trigger("t")  # type: ignore[call-arg]
    op.create_audit_trigger("t", columns=["id"], key=1)  # type: ignore[arg-type]
    op.create_audit_trigger("t", columns=["id"], colour="red")  # type: ignore[call-arg]
    op.create_audit_trigger(
        "t",
        columns=["id"],
        session_settings={"a": "must"},  # type: ignore[dict-item]
    )
    op.replace_audit_trigger("t", columns=["id"])  # type: ignore[call-arg]
    op.drop_audit_trigger("t", columns=["id"])  # type: ignore[call-arg]
    op.drop_audit_table("t_audit", "public")  # type: ignore[call-arg]
    op.drop_audit_column("t_audit")  # type: ignore[call-arg]
    op.no_such_operation()  # type: ignore[attr-defined]
"""


def generated(path: Path, database: Database) -> list[Path]:
    """Return three revisions that hold every operation, importing the typed `op`."""
    project = Initialized(path, database, "psycopg2")
    template = path / "migrations" / "script.py.mako"
    text = template.read_text()
    assert "from alembic import op\n" in text
    template.write_text(text.replace("from alembic import op\n", "from alembic_audit import op\n"))
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA other")
    project.migrate(first(), "0001")
    with database.engine.begin() as connection:
        connection.exec_driver_sql('ALTER TABLE account DISABLE TRIGGER "00_audit_account_update"')
    project.migrate(second(), "0002")
    project.migrate(sa.MetaData(), "0003")
    files = sorted((path / "migrations" / "versions").glob("*.py"))
    everything = "".join(file.read_text() for file in files)
    for name in (
        "op.create_audit_trigger(",
        "op.replace_audit_trigger(",
        "op.drop_audit_trigger(",
        "op.drop_audit_table(",
        "op.drop_audit_column(",
        "found=[",
        "'found': [",
    ):
        assert name in everything
    return files


def run(*command: object, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | environment,
    )


@pytest.mark.skipif(
    sa.__version__.startswith("2.0."), reason="a Select of several types is one of SQLAlchemy 2.1"
)
def test_mypy_strict(tmp_path: Path, database: Database) -> None:
    """mypy --strict finds nothing in generated migrations, and every misuse in the sample."""
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE)
    files = [sample, *generated(tmp_path, database)]
    # At the root, so that the cache of `make lint` serves here too.
    done = run(sys.executable, "-m", "mypy", "--strict", *files, cwd=ROOT, MYPYPATH=str(ROOT))
    assert "Success: no issues found in 4 source files\n" == done.stdout, done.stdout + done.stderr


@pytest.fixture(scope="module")
def pyright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory like site-packages, with this package as it would be installed.

    pyright looks for py.typed there, and an editable installation has none to find.
    """
    pytest.importorskip("basedpyright", reason="optional, 280 MB: pip install -e '.[pyright]'")
    directory = tmp_path_factory.mktemp("site")
    found = find_spec("sqlalchemy")
    assert found and found.origin
    for path in Path(found.origin).parents[1].iterdir():
        if "alembic_audit" not in path.name:
            (directory / path.name).symlink_to(path)
    shutil.copytree(ROOT / "alembic_audit", directory / "alembic_audit")
    return directory


def test_pyright_on_generated_migrations(tmp_path: Path, database: Database, pyright: Path) -> None:
    """pyright in its strict mode finds nothing in generated migrations."""
    files = generated(tmp_path, database)
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(pyright)]})
    )
    done = run(sys.executable, "-m", "basedpyright", "--outputjson", *files, cwd=tmp_path)
    said = json.loads(done.stdout)
    assert [] == [
        (one["severity"], one["message"], one.get("rule")) for one in said["generalDiagnostics"]
    ]
    assert 3 == said["summary"]["filesAnalyzed"]


def test_pyright_knows_every_type(tmp_path: Path, pyright: Path) -> None:
    """`pyright --verifytypes` finds no unknown type, and no ambiguous one in the public names."""
    arguments = ("--verifytypes", "alembic_audit", "--ignoreexternal", "--outputjson")
    done = run(
        sys.executable, "-m", "basedpyright", *arguments, cwd=tmp_path, PYTHONPATH=str(pyright)
    )
    symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    exported = {one["name"] for one in symbols if one["isExported"]}
    public = {f"alembic_audit.{name}" for name in alembic_audit.__all__ if name != "__version__"}
    assert public <= exported
    assert "alembic_audit.op.create_audit_trigger" in exported
    holes = [one for one in symbols if not one["isTypeKnown"]]
    assert [] == [one["name"] for one in holes if not one["isTypeAmbiguous"]]
    inner = ("alembic_audit.operations.", "alembic_audit.autogenerate.")
    assert [] == [one["name"] for one in holes if not one["name"].startswith(inner)]


STUB = {
    node.name: node
    for node in ast.parse((ROOT / "alembic_audit" / "op.pyi").read_text()).body
    if isinstance(node, ast.FunctionDef)
}


def parameters(name: str) -> dict[str, str | None]:
    """Return the keyword-only parameters of a function in op.pyi, and their defaults' text."""
    arguments = STUB[name].args
    return {
        one.arg: default and ast.unparse(default)
        for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    }


OWN = {  # beside those of a spec
    "create_audit_trigger": {"found": "()"},
    "replace_audit_trigger": {"found": "()", "replaces": None},
    "rename_audited_table": {"replaces": "None", "source_renamed": "False"},
    "move_audited_table": {"replaces": "None", "source_moved": "False"},
    "rename_audited_column": {"source_renamed": "False"},
    "snapshot_audit_table": {"batch_size": "None"},
}
OTHERS = [
    DropAuditTriggerOp.drop_audit_trigger,
    RestoreAuditTriggerOp.restore_audit_trigger,
    DropAuditTableOp.drop_audit_table,
    DropAuditColumnOp.drop_audit_column,
    AlterAuditColumnOp.alter_audit_column,
    NumberAuditTableOp.number_audit_table,
    CreateAuditSchemaOp.create_audit_schema,
    DropAuditSchemaOp.drop_audit_schema,
    LockAuditedTablesOp.lock_audited_tables,
    PurgeAuditTableOp.purge_audit_table,
]


def test_the_stub_has_every_operation() -> None:
    """No operation is unknown to type checkers."""
    assert {*OWN, *(one.__name__ for one in OTHERS), "set_audit_context"} == set(STUB)
    registered = {name for name in vars(Operations) if "audit" in name}
    assert registered == set(STUB)


@pytest.mark.parametrize("name", OWN)
def test_the_stub_has_the_arguments_of_a_spec(name: str) -> None:
    """op.pyi names the arguments that the operation takes, with the same defaults."""
    signature = inspect.signature(AuditSpec.from_kwargs)
    expected: dict[str, str | None] = {
        one.name: repr(one.default)
        for one in signature.parameters.values()
        if one.kind is one.KEYWORD_ONLY
    }
    expected |= {"columns": None, **OWN[name]}
    actual = parameters(name)
    assert set(expected) == set(actual)
    for one, default in actual.items():
        if default != "...":
            assert (one, ast.literal_eval(expected[one] or "None")) == (
                one,
                ast.literal_eval(default or "None"),
            )


@pytest.mark.parametrize("operation", OTHERS)
def test_the_stub_has_the_arguments_of_the_others(operation: typing.Any) -> None:
    """op.pyi names the arguments of the other operations, in their order."""
    signature = inspect.signature(operation)
    expected = {
        one.name: one.default if one.default is not one.empty else "required"
        for one in signature.parameters.values()
        if one.kind is one.KEYWORD_ONLY
    }
    assert expected == {
        one: ast.literal_eval(default) if default else "required"
        for one, default in parameters(operation.__name__).items()
    }
    positional = [
        one.name for one in signature.parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    assert positional[1:] == [one.arg for one in STUB[operation.__name__].args.args]


def test_the_typed_options_are_those_that_exist() -> None:
    """The keys that type checkers know are the options that are built."""
    known = {"enabled", "reason", *options.AuditOptions.__dataclass_fields__}
    assert known == set(options.Options.__annotations__)
