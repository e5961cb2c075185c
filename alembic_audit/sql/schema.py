"""Statements that make a schema for audit tables, and take it away."""

from alembic_audit.naming import literal, quote
from alembic_audit.sql.text import do_block


def create(schema: str, comment: str) -> str:
    """Return the statement that makes a schema, unless it is there; *comment* marks it as ours.

    Who owns a schema can drop and rename whatever is in it. One that is there must be of a role
    that can act as the one which migrates, or of the database's owner, who could drop it all.
    """
    message = f"schema {quote(schema)} belongs to "
    remedy = f"ALTER SCHEMA {quote(schema)} OWNER TO "
    return do_block(
        [
            "DECLARE",
            "  other pg_catalog.text;",
            "BEGIN",
            "  SELECT pg_catalog.pg_get_userbyid(nspowner)::pg_catalog.text INTO other",
            "  FROM pg_catalog.pg_namespace",
            f"  WHERE nspname OPERATOR(pg_catalog.=) {literal(schema)}",
            "    AND NOT pg_catalog.pg_has_role(nspowner, current_user, 'MEMBER')",
            "    AND pg_catalog.pg_get_userbyid(nspowner)",
            "      OPERATOR(pg_catalog.<>) 'pg_database_owner'",
            "    AND NOT EXISTS (",
            "      SELECT FROM pg_catalog.pg_database",
            "      WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()",
            "        AND datdba OPERATOR(pg_catalog.=) nspowner",
            "    );",
            "  IF other IS NOT NULL THEN",
            "    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE =",
            f"      pg_catalog.concat({literal(message)}, other,",
            "        ', who could drop every audit table in it'),",
            f"      HINT = pg_catalog.concat({literal(remedy)}, current_user,",
            "        ', or name another schema: schema_name.');",
            "  END IF;",
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
