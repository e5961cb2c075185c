"""Statements that make a schema for audit tables, and take it away."""

from alembic_audit.naming import literal, quote
from alembic_audit.sql import trust
from alembic_audit.sql.text import do_block


def create(schema: str, comment: str) -> str:
    """Return the statement that makes a schema, unless it is there; *comment* marks it as ours."""
    return do_block(
        [
            "DECLARE",
            "  other pg_catalog.text;",
            "BEGIN",
            *trust.check_schema(schema),
            "  IF NOT EXISTS (",
            "    SELECT FROM pg_catalog.pg_namespace",
            f"    WHERE nspname OPERATOR(pg_catalog.=) {literal(schema)}",
            "  ) THEN",
            f"    CREATE SCHEMA {quote(schema)};",
            f"    COMMENT ON SCHEMA {quote(schema)} IS {literal(comment)};",
            "  END IF;",
            "END",
        ]
    )


def drop(schema: str, comment: str) -> str:
    """Return the statement that drops a schema which we made and which holds nothing."""
    return do_block(
        [
            "BEGIN",
            "  IF EXISTS (",
            "    SELECT FROM pg_catalog.pg_namespace",
            f"    WHERE nspname OPERATOR(pg_catalog.=) {literal(schema)}",
            "      AND pg_catalog.obj_description(oid, 'pg_namespace')",
            f"        OPERATOR(pg_catalog.=) {literal(comment)}",
            "  ) THEN",
            f"    DROP SCHEMA {quote(schema)};",
            "  END IF;",
            "EXCEPTION WHEN dependent_objects_still_exist THEN",
            f"  RAISE NOTICE USING MESSAGE = {literal(f'schema {quote(schema)} is not empty')};",
            "END",
        ]
    )
