"""What is taken from everybody but the owner."""

from alembic_audit.naming import literal
from alembic_audit.spec import AuditSpec
from alembic_audit.sql.text import audit_name, do_block, function_name, regprocedure


def revoke(spec: AuditSpec, default_schema: str, *, tables: bool) -> str:
    """Take every privilege on what we made from everybody but the owner.

    PUBLIC may execute a new function, and default privileges can give more (PostgreSQL manual,
    5.8): who may execute the function can attach it to a table of their own and forge records.
    """
    audit = audit_name(spec, default_schema) if tables else None
    return _revoke(function_name(spec, default_schema), audit)


def revoke_function(name: str) -> str:
    """Take EXECUTE on a function from everybody but its owner."""
    return _revoke(name, None)


def _audit_table_privileges(audit: str) -> list[str]:
    return [
        "    UNION ALL",
        "    SELECT 'TABLE ', c.oid::pg_catalog.regclass::pg_catalog.text, c.relowner,",
        "      COALESCE(c.relacl, pg_catalog.acldefault('r', c.relowner))",
        "    FROM pg_catalog.pg_class AS c",
        f"    WHERE c.oid OPERATOR(pg_catalog.=) {literal(audit)}::pg_catalog.regclass",
        "      AND NOT used",
        "    UNION ALL",
        "    SELECT 'SEQUENCE ', c.oid::pg_catalog.regclass::pg_catalog.text, c.relowner,",
        "      COALESCE(c.relacl, pg_catalog.acldefault('s', c.relowner))",
        "    FROM pg_catalog.pg_class AS c",
        "    JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) c.oid",
        "      AND d.deptype OPERATOR(pg_catalog.=) 'i'",
        "    WHERE c.relkind OPERATOR(pg_catalog.=) 'S' AND d.refobjid",
        f"      OPERATOR(pg_catalog.=) {literal(audit)}::pg_catalog.regclass",
        "      AND NOT used",
    ]


def _revoke(function: str, audit: str | None) -> str:
    # An audit table that holds records was there before, and what was granted on it is the
    # user's; one that may not even be read is somebody else's.
    used = [
        f"  IF pg_catalog.has_table_privilege({literal(audit or '')}, 'SELECT') THEN",
        f"    used := EXISTS (SELECT FROM {audit});",
        "  END IF;",
    ]
    kinds = [
        "    SELECT 'FUNCTION ', p.oid::pg_catalog.regprocedure::pg_catalog.text, p.proowner,",
        "      COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner))",
        "    FROM pg_catalog.pg_proc AS p",
        f"    WHERE p.oid OPERATOR(pg_catalog.=) {regprocedure(function)}",
        *(_audit_table_privileges(audit) if audit else []),
    ]
    return do_block(
        [
            "DECLARE",
            "  item pg_catalog.record;",
            *(["  used pg_catalog.bool := true;"] if audit else []),
            "BEGIN",
            *(used if audit else []),
            "  FOR item IN",
            "    SELECT DISTINCT made.kind, made.name,",
            "      COALESCE(pg_catalog.quote_ident(r.rolname), 'PUBLIC') AS grantee",
            "    FROM (",
            *("  " + line for line in kinds),
            "    ) AS made (kind, name, owner, acl)",
            "    CROSS JOIN LATERAL pg_catalog.aclexplode(made.acl) AS a",
            "    LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) a.grantee",
            "    WHERE a.grantee OPERATOR(pg_catalog.<>) made.owner",
            "  LOOP",
            "    EXECUTE pg_catalog.concat(",
            "      'REVOKE ALL ON ', item.kind, item.name, ' FROM ', item.grantee",
            "    );",
            "  END LOOP;",
            "END",
        ]
    )
