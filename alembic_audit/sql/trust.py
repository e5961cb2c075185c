"""What finds that a table or schema belongs to somebody who could make a trail run their code.

The owner of an audit table can put triggers, rules, defaults and checks on it, and these run as the
owner of the function; the owner of a schema can drop what is in it.
"""

from alembic_audit.naming import literal


def _distrusted(role: str, owner: str | None) -> str:
    """Return the condition that the role of an oid is not trusted.

    Trusted are superusers, who may do anything anyway, *owner*, the current role, and roles whose
    rights it has. Of a superuser that would be every role: of it, the first two.
    """
    named = f" OR r.rolname OPERATOR(pg_catalog.=) {literal(owner)}" if owner else ""
    return (
        "NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r "
        f"WHERE r.oid OPERATOR(pg_catalog.=) {role} AND (r.rolsuper{named} OR "
        "NOT (SELECT me.rolsuper FROM pg_catalog.pg_roles AS me "
        "WHERE me.rolname OPERATOR(pg_catalog.=) current_user) "
        "AND pg_catalog.pg_has_role(r.oid, 'USAGE')))"
    )


def check_audit_table(table: str, owner: str | None) -> list[str]:
    """Return what refuses an audit table that somebody else made, or put a trigger on.

    Args:
        table: The audit table, qualified and quoted.
        owner: The role that will own it; None is the current role.
    """
    relation = f"pg_catalog.to_regclass({literal(table)})"
    remedy = (
        f"If its records are yours: ALTER TABLE {table} OWNER TO the role that migrates, after a "
        "look at its triggers, rules and defaults. Else rename it, or name another: audit_table=..."
    )
    others = f"table {table} has triggers of others, which would "
    drop = f"DROP TRIGGER ... ON {table}, or give its function to a role that you trust."
    return [
        "  SELECT pg_catalog.pg_get_userbyid(relowner)::pg_catalog.text INTO missing",
        f"  FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) {relation}",
        f"    AND {_distrusted('relowner', owner)};",
        "  IF missing IS NOT NULL THEN",
        "    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE =",
        f"      pg_catalog.concat({literal(f'table {table} belongs to role ')}, missing,",
        "        ', whose triggers on it would run as the owner of the audit function'),",
        f"      HINT = {literal(remedy)};",
        "  END IF;",
        "  SELECT pg_catalog.string_agg(pg_catalog.concat(pg_catalog.quote_ident(tgname),",
        "    ' of role ', pg_catalog.pg_get_userbyid(proowner)), ', ') INTO missing",
        "  FROM pg_catalog.pg_trigger",
        "  JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) tgfoid",
        f"  WHERE tgrelid OPERATOR(pg_catalog.=) {relation} AND NOT tgisinternal",
        f"    AND {_distrusted('proowner', owner)};",
        "  IF missing IS NOT NULL THEN",
        "    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE =",
        f"      pg_catalog.concat({literal(others)},",
        "        'run as the owner of the audit function: ', missing),",
        f"      HINT = {literal(drop)};",
        "  END IF;",
    ]


def check_schema(schema: str) -> list[str]:
    """Return what refuses a schema that somebody else made; whose database it is may have.

    Args:
        schema: Its name, not quoted.
    """
    message = f"schema {schema!r} for audit tables belongs to role "
    hint = "ALTER SCHEMA ... OWNER TO the role that migrates, or write another schema_name."
    return [
        "  SELECT pg_catalog.pg_get_userbyid(nspowner)::pg_catalog.text INTO other",
        f"  FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) {literal(schema)}",
        "    AND pg_catalog.pg_get_userbyid(nspowner) OPERATOR(pg_catalog.<>) 'pg_database_owner'",
        "    AND NOT EXISTS (SELECT FROM pg_catalog.pg_database",
        "      WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()",
        "        AND datdba OPERATOR(pg_catalog.=) nspowner)",
        f"    AND {_distrusted('nspowner', None)};",
        "  IF other IS NOT NULL THEN",
        "    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE =",
        f"      pg_catalog.concat({literal(message)}, other, ', who could drop what is in it'),",
        f"      HINT = {literal(hint)};",
        "  END IF;",
    ]
