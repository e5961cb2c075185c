"""Headers that no release of ours wrote: nothing that reads headers fails on one."""

import json
import os

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alembic_audit.catalog.everything import read_everything
from alembic_audit.ddl import verbatim
from alembic_audit.errors import SpecError
from alembic_audit.spec import HEADER, AuditSpec, NewerSpecError
from alembic_audit.sql.check import broken_trails
from tests.conftest import Database

WRITER = f"writer_{os.getpid()}"
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
KEYS = AuditSpec.from_kwargs(table="account", columns=["id", "n"], key=["id"]).full_kwargs()
HEADERS = (
    st.text(max_size=40)
    | _JSON.map(json.dumps)
    | st.dictionaries(st.sampled_from(sorted(KEYS)), _JSON).map(
        lambda some: json.dumps({"version": 1, **KEYS, **some})
    )
    | st.sampled_from(
        [
            "[" * 100_000,
            '{"a":' * 100_000,
            '{"version": 1e400, "table": "x", "audit_table": "y"}',
            '{"version": "1", "table": [1], "audit_table": {}, "columns": 3}',
            '{"version": 1, "table": "account", "audit_table": "gone", "columns": {}}',
            '{"version": 99999999999999999999, "table": "account", "audit_table": "a"}',
            "null",
            '"\\u0000"',
        ]
    )
).filter(lambda text: not set("\0\n\r$") & set(text))


@given(HEADERS)
@settings(deadline=None, max_examples=300)
def test_no_header_raises_in_python(text: str) -> None:
    """A header is a spec, is newer, or is none."""
    try:
        AuditSpec.from_body(f"{HEADER}{text}\nBEGIN END")
    except NewerSpecError as error:
        assert not isinstance(error, SpecError) or str(error)


def test_no_header_of_a_writer_stops_a_migration(database: Database) -> None:
    """A role that may attach a trigger puts any header there; check and catalog go on."""
    engine = database.engine
    with engine.begin() as connection:
        for statement in (
            f"CREATE ROLE {WRITER} LOGIN",
            "CREATE TABLE account (id int)",
            f"GRANT TRIGGER ON account TO {WRITER}",
            f"CREATE SCHEMA own AUTHORIZATION {WRITER}",
        ):
            connection.exec_driver_sql(statement)
    writer = sa.create_engine(database.url(user=WRITER))

    @given(HEADERS.filter(lambda text: text.encode("utf-8", "ignore").decode() == text))
    @settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
    def attack(text: str) -> None:
        body = f"{HEADER}{text}\nBEGIN RETURN NULL; END"
        for schema, table, role in (
            ("own", "public.account", writer),
            ("pg_temp", "public.account", writer),
            ("public", "public.account", engine),
        ):
            with role.connect() as connection:
                for statement in (
                    f"CREATE OR REPLACE FUNCTION {schema}.f() RETURNS trigger LANGUAGE plpgsql "
                    f"AS $x${body}$x$",
                    f"CREATE TRIGGER t AFTER INSERT ON {table} FOR EACH ROW "
                    f"EXECUTE FUNCTION {schema}.f()",
                ):
                    connection.execute(verbatim(statement))
                if role is engine:
                    try:
                        connection.execute(verbatim(broken_trails("public")))
                    except sa.exc.DBAPIError as error:
                        # A header that can be read, of a trail that is broken.
                        assert "Writes would fail" in str(error)
                        continue
                    read_everything(connection)
                    continue
                connection.commit()
                with engine.connect() as migrator:
                    migrator.execute(verbatim(broken_trails("public")))
                    read_everything(migrator)
                connection.execute(verbatim(f"DROP FUNCTION {schema}.f() CASCADE"))
                connection.commit()

    try:
        attack()
    finally:
        writer.dispose()
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {WRITER} CASCADE")
            connection.exec_driver_sql(f"DROP ROLE {WRITER}")
