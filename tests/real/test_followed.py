"""Published applications, audited from an early revision, under their own later migrations.

The applications are installed in environments of their own, below build/real.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import Database

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("followed.py")
CKAN = """
    ckan alembic babel beaker bleach blinker certifi click dominate feedgen flask flask-babel
    flask-login flask-session flask-wtf jinja2 markdown msgspec packaging passlib polib PyJWT
    pyparsing pysolr python-dateutil python-magic pytz PyUtilib pyyaml requests rq simplejson
    sqlalchemy<2.1 sqlparse typing_extensions tzlocal webassets Werkzeug zope.interface
"""
"""The package on the index names no requirements."""

PREFECT = "prefect sqlalchemy[asyncio] asyncpg"

NOT_IN_MODELS = {"ckan": ("activity", "activity_detail"), "mlflow": (), "prefect": ()}
"""Tables that the models of an application do not have: their trails go on."""


def _environment(name: str, requirements: str) -> Path:
    """Return the Python of an environment with an application and this package."""
    place = ROOT / "build" / "real" / name
    python = place / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    if not (place / "ready").exists():
        venv.create(place, with_pip=True, clear=True)
        subprocess.run([*pip, *requirements.split(), "psycopg2-binary", "sqlparse"], check=True)
        (place / "ready").touch()
    subprocess.run([*pip, "--no-deps", "--editable", ROOT], check=True)
    return python


@pytest.mark.parametrize(
    ("name", "requirements", "early"),
    [
        pytest.param("ckan", CKAN, "01a6b058cb7f", id="ckan"),
        pytest.param("mlflow", "mlflow", "451aebb31d03", id="mlflow"),
        pytest.param("prefect", PREFECT, "5f376def75c3", id="prefect"),
    ],
)
def test_its_own_migrations_pass(
    name: str, requirements: str, early: str, database: Database, tmp_path: Path
) -> None:
    """Every later revision passes untouched, and after each one every trail replays."""
    python = _environment(name, requirements)
    url = database.url().render_as_string(hide_password=False)
    done = subprocess.run(
        [python, DRIVER, url, name, early],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PREFECT_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout[done.stdout.index("{\n") :])
    print(json.dumps(told, indent=1), file=sys.stderr)
    assert told["stopped"] == {}
    assert told["unlike"] == {}
    kept = [f"('drop_audit_trigger', '{one}', '{one}_audit')" for one in NOT_IN_MODELS[name]]
    # Of columns that models and migrations of the application give two types.
    found = [one for one in told["differences"] if "compiled anew: a type changes" not in one]
    assert found == kept
    assert told["passed"] == told["revisions"] > 30
    assert told["records"] > 500
