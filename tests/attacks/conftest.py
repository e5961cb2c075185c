"""A table under audit that a deployer owns, and a role that may write it and means harm."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from alembic_audit import audit_table, sql
from tests.conftest import Database

DEPLOYER = f"deployer_{os.getpid()}"
APP = f"app_{os.getpid()}"
FUNCTION = "public.public_account_audit"
OPTIONS: dict[str, Any] = {
    "session_settings": [sa.Column("who", sa.Text)],
    "hash_columns": ["secret"],
    "changed_columns": True,
    "skip_unchanged": True,
}


class Refused(Exception):
    """PostgreSQL refused a statement of the attacker's; `code` is its SQLSTATE."""

    def __init__(self, error: psycopg2.Error) -> None:
        super().__init__(str(error))
        self.code = error.pgcode


class Lab:
    """One database; `start` begins a trail, as it is made or weakened."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.admin(
            f"CREATE ROLE {DEPLOYER}",
            f"CREATE ROLE {APP} LOGIN",
            f"GRANT CREATE ON SCHEMA public TO {DEPLOYER}",
            f"CREATE SCHEMA app AUTHORIZATION {APP}",
            f"GRANT USAGE ON SCHEMA app TO {DEPLOYER}",
        )

    def admin(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as a superuser; return the rows of the last."""
        return self._run(None, statements)

    def deploy(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as the owner of table and trail."""
        return self._run(None, [f"SET ROLE {DEPLOYER}", *statements])

    def attack(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements in one session of the application's role.

        Raises:
            Refused: PostgreSQL refused one.
        """
        try:
            return self._run(APP, statements)
        except psycopg2.Error as error:
            raise Refused(error) from error

    def _run(self, user: str | None, statements: Sequence[str]) -> list[tuple[Any, ...]]:
        url = self.database.url(user=user)
        parameters = url.translate_connect_args(username="user", database="dbname")
        connection = psycopg2.connect(**parameters, **url.query)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def start(
        self,
        change: Callable[[str], str] | None = None,
        *,
        without: str | None = None,
        by: str | None = None,
        table: str = "",
        **options: Any,
    ) -> None:
        """Begin anew with an empty table and its trail.

        Args:
            change: Weakens the body of the function, for a control.
            without: Statements that begin so are not run, for a control.
            by: SQL that weakens what was made, for a control.
            table: What follows the columns in CREATE TABLE.
            **options: Of the audit.
        """
        self.admin(
            "DROP TABLE IF EXISTS public.account, public.account_audit CASCADE",
            f"DROP FUNCTION IF EXISTS {FUNCTION}() CASCADE",
        )
        metadata = sa.MetaData()
        account = sa.Table(
            "account",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("email", sa.Text),
            sa.Column("secret", sa.Text),
        )
        audit = audit_table(account, **{**OPTIONS, **options})
        spec = account.info["audit.spec"]
        make = sa.schema.CreateTable(audit).compile(dialect=self.database.engine.dialect)
        body = sql.body(spec, "public")
        statements = [
            one.replace(body, change(body) if change else body)
            for one in sql.create(spec, "public")
            if without is None or without not in one
        ]
        if change:
            assert change(body) != body
        partition = "CREATE TABLE low PARTITION OF account DEFAULT"
        self.deploy(
            f"CREATE TABLE public.account (id int PRIMARY KEY, email text, secret text) {table}",
            *([partition] if table else []),
            str(make),
            *statements,
            f"GRANT ALL ON account{', low' if table else ''} TO {APP}",
        )
        if by:
            self.admin(by)

    def records(self, what: str = "audit_operation, id, email") -> list[tuple[Any, ...]]:
        """Return what was recorded."""
        return self.admin(f"SELECT {what} FROM public.account_audit ORDER BY audit_id")

    def close(self) -> None:
        for role in (APP, DEPLOYER):
            self.admin(f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


@pytest.fixture
def lab(database: Database) -> Iterator[Lab]:
    """A laboratory; its roles go with it."""
    made = Lab(database)
    yield made
    made.close()
