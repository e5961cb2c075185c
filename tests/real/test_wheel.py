"""The wheel alone, in an environment with what the core needs and nothing else."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

SCRIPT = """
import importlib.util
for absent in ("psycopg2", "psycopg", "asyncpg", "rich"):
    assert importlib.util.find_spec(absent) is None, absent

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from alembic.autogenerate import render_python_code
from alembic.operations.ops import UpgradeOps

from alembic_audit import audit_table
from alembic_audit.autogenerate import diff, render
from alembic_audit.tables import SPEC_KEY

account = sa.Table("account", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
audit = audit_table(account)
print(CreateTable(audit).compile(dialect=postgresql.dialect()))
ops = diff.compare({("public", "account"): account.info[SPEC_KEY]}, {})
print(render_python_code(UpgradeOps(ops)))
"""


def test_the_wheel_declares_and_renders_without_a_driver(tmp_path: Path) -> None:
    """A clean environment: alembic, sqlalchemy, sqlparse and the wheel."""
    root = Path(__file__).parents[2]

    def run(*command: object) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
    run(sys.executable, *pip, "wheel", "--no-deps", "--wheel-dir", tmp_path / "dist", root)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run(python, *pip, "install", wheel)
    printed = run(python, "-c", SCRIPT)
    assert "CREATE TABLE account_audit" in printed
    assert "op.create_audit_trigger(" in printed
