"""What stands around trails: rights, triggers of others, children, rules, settings, roles.

A constant number of statements, whatever the number of tables.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from alembic_audit.catalog.foreign import trigger as foreign_trigger
from alembic_audit.catalog.queries import WANTED
from alembic_audit.spec import HEADER
from alembic_audit.sql.text import COMMENT
from alembic_audit.states import ForeignTrigger, Name

_K = TypeVar("_K")
_V = TypeVar("_V")

_RELATIONS = f"""
    SELECT n.nspname, c.relname, c.relpersistence::pg_catalog.text, c.relrowsecurity,
      c.relforcerowsecurity, o.rolname AS owner, o.rolsuper AS owner_is_super, o.rolbypassrls,
      s.rolname AS schema_owner, s.rolsuper AS schema_owner_is_super,
      pg_catalog.has_schema_privilege('public', n.oid, 'CREATE') AS public_creates,
      pg_catalog.has_table_privilege(c.oid, 'SELECT')
        AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS readable,
      ARRAY(
        SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      ) AS columns,
      ARRAY(
        SELECT pg_catalog.to_json(ARRAY(
          SELECT a.attname::pg_catalog.text
          FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k (number, place)
          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.number
          WHERE k.place <= i.indnkeyatts
          ORDER BY k.place
        ))::pg_catalog.text
        FROM pg_catalog.pg_index AS i
        WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
      ) AS indexes,
      ARRAY(
        SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.attnotnull
      ) AS nullable,
      ARRAY(
        SELECT pg_catalog.json_build_array(
          i.indimmediate,
          ARRAY(
            SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
            WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey::pg_catalog.int2[])
          )
        )::pg_catalog.text
        FROM pg_catalog.pg_index AS i
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
          AND i.indexprs IS NULL AND i.indnatts = i.indnkeyatts
      ) AS uniques,
      (
        SELECT d.objid::pg_catalog.int8 FROM pg_catalog.pg_depend AS d
        JOIN pg_catalog.pg_sequence AS q ON q.seqrelid = d.objid
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'i'
          AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = c.oid
          AND a.attname = 'audit_id'
          -- CASE: else an index that depends on the column may be asked about too.
          AND CASE WHEN q.seqrelid IS NOT NULL
            THEN pg_catalog.has_sequence_privilege(q.seqrelid, 'SELECT, USAGE') END
      ) AS sequence,
      (
        -- After the records in a dump, and untold of a table whose records come from elsewhere.
        SELECT pg_catalog.json_build_array(k.xmin::pg_catalog.text, k.conname,
          pg_catalog.obj_description(k.oid, 'pg_constraint'))::pg_catalog.text
        FROM pg_catalog.pg_constraint AS k
        WHERE k.conrelid = c.oid AND k.contype = 'p' AND NOT EXISTS (
          SELECT FROM pg_catalog.pg_subscription_rel AS r WHERE r.srrelid = c.oid
        )
      ) AS primary_key
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_roles AS o ON o.oid = c.relowner
    JOIN pg_catalog.pg_database AS b ON b.datname = pg_catalog.current_database()
    JOIN pg_catalog.pg_roles AS s ON s.oid = CASE
      WHEN n.nspowner = 'pg_database_owner'::pg_catalog.regrole THEN b.datdba ELSE n.nspowner END
    WHERE c.relkind IN ('r', 'p', 'f') AND {WANTED}
"""

_FUNCTIONS = """
    SELECT n.nspname, p.proname, o.rolname AS owner, o.rolsuper AS owner_is_super,
      pg_catalog.has_table_privilege(p.proowner, c.oid, 'INSERT') AS may_insert
    FROM ROWS FROM (
      pg_catalog.unnest(CAST(:audit_schemas AS pg_catalog.text[])),
      pg_catalog.unnest(CAST(:functions AS pg_catalog.text[])),
      pg_catalog.unnest(CAST(:audits AS pg_catalog.text[]))
    ) AS wanted (audit_schema, function, audit)
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = wanted.audit_schema
    JOIN pg_catalog.pg_proc AS p ON p.pronamespace = n.oid AND p.proname = wanted.function
    JOIN pg_catalog.pg_roles AS o ON o.oid = p.proowner
    JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = wanted.audit
    WHERE p.prorettype = 'pg_catalog.trigger'::pg_catalog.regtype
"""

_TYPES = f"""
    SELECT n.nspname, c.relname, pg_catalog.format_type(t.oid, NULL) AS type, o.rolname AS owner
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
    JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
    JOIN pg_catalog.pg_roles AS o ON o.oid = t.typowner AND NOT o.rolsuper
    WHERE NOT a.attisdropped AND {WANTED}
    ORDER BY n.nspname, c.relname, a.attnum
"""

_GRANTEE = "COALESCE(pg_catalog.quote_ident(r.rolname), 'PUBLIC')"

_GRANTS = f"""
    SELECT n.nspname, c.relname, 'TABLE' AS kind, {_GRANTEE} AS grantee, a.privilege_type,
      NULL AS object
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    CROSS JOIN pg_catalog.aclexplode(c.relacl) AS a
    LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
    WHERE a.grantee <> c.relowner AND {WANTED}
    UNION ALL
    SELECT n.nspname, c.relname, 'COLUMN', {_GRANTEE}, a.privilege_type,
      pg_catalog.quote_ident(t.attname)
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute AS t ON t.attrelid = c.oid AND NOT t.attisdropped
    CROSS JOIN pg_catalog.aclexplode(t.attacl) AS a
    LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
    WHERE a.grantee <> c.relowner AND {WANTED}
    UNION ALL
    SELECT n.nspname, c.relname, 'SEQUENCE', {_GRANTEE}, a.privilege_type,
      pg_catalog.concat(pg_catalog.quote_ident(qn.nspname), '.', pg_catalog.quote_ident(q.relname))
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_depend AS d ON d.refobjid = c.oid AND d.deptype = 'i'
      AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
      AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
    JOIN pg_catalog.pg_class AS q ON q.oid = d.objid AND q.relkind = 'S'
    JOIN pg_catalog.pg_namespace AS qn ON qn.oid = q.relnamespace
    CROSS JOIN pg_catalog.aclexplode(q.relacl) AS a
    LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
    WHERE a.grantee <> q.relowner AND {WANTED}
    ORDER BY 1, 2, 3, 4, 5, 6
"""

_CHILDREN = f"""
    WITH RECURSIVE below (top, oid) AS (
      SELECT i.inhparent, i.inhrelid
      FROM pg_catalog.pg_inherits AS i
      JOIN pg_catalog.pg_class AS c ON c.oid = i.inhparent
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      WHERE {WANTED}
      UNION
      SELECT below.top, i.inhrelid
      FROM below JOIN pg_catalog.pg_inherits AS i ON i.inhparent = below.oid
    )
    SELECT tn.nspname AS top_schema, t.relname AS top, n.nspname, c.relname, c.relispartition,
      ARRAY(
        SELECT {_GRANTEE} FROM pg_catalog.aclexplode(c.relacl) AS a
        LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
        WHERE a.grantee <> c.relowner AND a.privilege_type = 'TRUNCATE'
        ORDER BY 1
      )::pg_catalog.text[] AS truncaters
    FROM below
    JOIN pg_catalog.pg_class AS t ON t.oid = below.top
    JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.relnamespace
    JOIN pg_catalog.pg_class AS c ON c.oid = below.oid AND c.relkind IN ('r', 'p', 'f')
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    ORDER BY 1, 2, 3, 4
"""

_TRIGGERS = f"""
    SELECT n.nspname, c.relname, t.tgname, t.tgtype, pn.nspname AS function_schema, p.proname,
      p.prosrc
    FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
    JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.pronamespace
    WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled <> 'D'
      AND NOT pg_catalog.starts_with(p.prosrc, :header)
      AND (pn.nspname, p.proname) NOT IN (
        SELECT * FROM ROWS FROM (
          pg_catalog.unnest(CAST(:audit_schemas AS pg_catalog.text[])),
          pg_catalog.unnest(CAST(:functions AS pg_catalog.text[]))
        ) AS ours
      )
      AND ({WANTED} OR EXISTS (
        SELECT FROM pg_catalog.unnest(CAST(:audits AS pg_catalog.text[])) AS audit
        WHERE pg_catalog.strpos(pg_catalog.lower(p.prosrc), pg_catalog.lower(audit)) > 0
      ))
    ORDER BY 1, 2, 3
"""

_RULES = f"""
    SELECT n.nspname, c.relname, w.rulename, w.ev_type::pg_catalog.text, w.is_instead
    FROM pg_catalog.pg_rewrite AS w
    JOIN pg_catalog.pg_class AS c ON c.oid = w.ev_class
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE w.rulename <> '_RETURN' AND w.ev_enabled <> 'D' AND {WANTED}
    ORDER BY 1, 2, 3
"""

_ODDITIES = f"""
    SELECT n.nspname, c.relname, odd.kind, odd.name, odd.detail
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (
      SELECT 'constraint' AS kind, k.conname::pg_catalog.text AS name,
        pg_catalog.pg_get_constraintdef(k.oid) AS detail
      FROM pg_catalog.pg_constraint AS k
      WHERE k.conrelid = c.oid AND (k.contype IN ('c', 'f', 'x') OR k.contype = 'u' AND EXISTS (
        SELECT FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum = ANY (k.conkey) AND a.attname <> 'audit_id'
      ))
      UNION ALL
      SELECT CASE WHEN c.relispartition THEN 'partitioned' ELSE 'parent' END, '',
        pg_catalog.format('%I.%I', pn.nspname, p.relname)
      FROM pg_catalog.pg_inherits AS i
      JOIN pg_catalog.pg_class AS p ON p.oid = i.inhparent
      JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace
      WHERE i.inhrelid = c.oid
      UNION ALL
      SELECT odd.kind, a.attname::pg_catalog.text, odd.detail
      FROM pg_catalog.pg_attribute AS a
      CROSS JOIN LATERAL (
        SELECT 'default' AS kind, pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS detail
        FROM pg_catalog.pg_attrdef AS d WHERE d.adrelid = c.oid AND d.adnum = a.attnum
        UNION ALL
        SELECT 'value', NULL WHERE a.atthasmissing
        UNION ALL
        SELECT 'number', NULL WHERE a.attname = 'audit_id' AND a.attidentity = '' AND NOT EXISTS (
          SELECT FROM pg_catalog.pg_attrdef AS d
          JOIN pg_catalog.pg_depend AS p ON p.objid = d.oid
            AND p.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
            AND p.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
          JOIN pg_catalog.pg_sequence AS q ON q.seqrelid = p.refobjid
          WHERE d.adrelid = c.oid AND d.adnum = a.attnum
        )
        UNION ALL
        SELECT CASE WHEN e.oid IS NULL THEN 'type' ELSE 'extension' END,
          pg_catalog.json_build_array(
            COALESCE(e.extname::pg_catalog.text, pg_catalog.format_type(t.oid, NULL)), o.rolname
          )::pg_catalog.text
        FROM pg_catalog.pg_type AS s
        JOIN pg_catalog.pg_type AS t
          ON t.oid = CASE WHEN s.typlen = -1 AND s.typelem <> 0 THEN s.typelem ELSE s.oid END
        LEFT JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
          AND d.objid = t.oid AND d.deptype = 'e'
        LEFT JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
        JOIN pg_catalog.pg_roles AS o ON o.oid = COALESCE(e.extowner, t.typowner)
        WHERE s.oid = a.atttypid AND o.oid <> c.relowner AND NOT o.rolsuper
      ) AS odd
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS odd
    WHERE {WANTED}
    ORDER BY 1, 2, 3, 4, 5
"""

_DEFAULTS = """
    SELECT d.datname, r.rolname, pg_catalog.split_part(entry, '=', 1) AS name,
      pg_catalog.substr(entry, pg_catalog.strpos(entry, '=') + 1) AS value
    FROM pg_catalog.pg_db_role_setting AS s
    CROSS JOIN pg_catalog.unnest(s.setconfig) AS entry
    LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase
    LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
    WHERE s.setdatabase = 0 OR d.datname = pg_catalog.current_database()
    ORDER BY 1, 2, 3
"""

_MEMBERS = """
    SELECT o.rolname AS owner, m.rolname AS member
    FROM pg_catalog.pg_roles AS o
    JOIN pg_catalog.pg_roles AS m ON m.oid <> o.oid AND m.rolcanlogin AND NOT m.rolsuper
      AND pg_catalog.pg_has_role(m.oid, o.oid, 'MEMBER')
    WHERE o.rolname = ANY (CAST(:owners AS pg_catalog.text[]))
    ORDER BY 1, 2
"""

_POWERS = """
    SELECT m.rolname AS role, CASE WHEN m.rolsuper THEN 'superuser' ELSE o.rolname END AS power
    FROM pg_catalog.pg_roles AS m
    LEFT JOIN pg_catalog.pg_roles AS o ON NOT m.rolsuper
      AND o.rolname IN ('pg_write_all_data', 'pg_execute_server_program', 'pg_write_server_files')
      AND pg_catalog.pg_has_role(m.oid, o.oid, 'MEMBER')
    -- 10 is who made the cluster: there is always that one.
    WHERE m.rolcanlogin AND m.oid <> 10 AND (m.rolsuper OR o.oid IS NOT NULL)
    ORDER BY 1, 2
"""

_PARAMETERS = f"""
    SELECT {_GRANTEE} AS grantee
    FROM pg_catalog.pg_parameter_acl AS p
    CROSS JOIN pg_catalog.aclexplode(p.paracl) AS a
    LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
    WHERE p.parname = 'session_replication_role' AND NOT COALESCE(r.rolsuper, false)
    ORDER BY 1
"""

_EVENT_TRIGGERS = """
    SELECT e.evtname, e.evtevent, n.nspname, p.proname
    FROM pg_catalog.pg_event_trigger AS e
    JOIN pg_catalog.pg_proc AS p ON p.oid = e.evtfoid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE e.evtenabled <> 'D' AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_depend AS d
      WHERE d.classid = 'pg_catalog.pg_event_trigger'::pg_catalog.regclass AND d.objid = e.oid
        AND d.deptype = 'e'
    )
    ORDER BY 1
"""

_AUDIT_TABLES = """
    SELECT n.nspname, c.relname
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND n.nspname = ANY (CAST(:looked_at AS pg_catalog.text[]))
      AND (
        pg_catalog.obj_description(c.oid, 'pg_class') = :comment
        OR EXISTS (
          SELECT FROM pg_catalog.pg_attribute AS a
          WHERE a.attrelid = c.oid AND a.attname = 'audit_operation' AND a.attnotnull
            AND a.atttypid = 'pg_catalog.varchar'::pg_catalog.regtype AND a.atttypmod = 5
        ) AND EXISTS (
          SELECT FROM pg_catalog.pg_attribute AS a
          WHERE a.attrelid = c.oid AND a.attname = 'audit_operation_timestamp'
        )
      )
    ORDER BY 1, 2
"""

_SCHEMAS = """
    SELECT n.nspname, EXISTS (
      SELECT FROM pg_catalog.pg_proc AS p
      WHERE p.pronamespace = n.oid AND pg_catalog.starts_with(p.prosrc, :header)
    ) AS has_ours
    FROM pg_catalog.pg_namespace AS n
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ORDER BY 1
"""

_PARAMETER_ACL_SINCE = (15,)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a trail is: its source, its audit table, its function; schemas resolved."""

    source: Name
    audit: Name
    function: Name


@dataclasses.dataclass(frozen=True)
class Health:
    """Rows of the catalogs around some trails.

    Attributes:
        relations: Sources and audit tables.
        functions: The functions.
        types: Those of columns that belong to no superuser, with their owners.
        grants: Privileges of others than the owner, on tables, columns and sequences.
        children: Partitions and inheritance children, at any depth.
        triggers: Those of others on these tables.
        writers: Triggers of others on any table, by the audit table that their function inserts
            into, with the schema where it is written.
        rules: On these tables.
        oddities: Constraints, defaults, parents and types of these tables that an audit table does
            not need.
        defaults: Settings of roles and of the database.
        members: Roles that may become an owner.
        powers: Roles that may do what only an owner should.
        parameters: Who else may set ``session_replication_role``.
        event_triggers: In the database.
        audit_tables: By comment or shape, in the schemas looked at.
    """

    relations: dict[Name, "sa.Row[Any]"]
    functions: dict[Name, "sa.Row[Any]"]
    types: dict[Name, list["sa.Row[Any]"]]
    grants: dict[Name, list["sa.Row[Any]"]]
    children: dict[Name, list["sa.Row[Any]"]]
    triggers: dict[Name, list[ForeignTrigger]]
    writers: dict[tuple[str | None, str], list[ForeignTrigger]]
    rules: dict[Name, list["sa.Row[Any]"]]
    oddities: dict[Name, list["sa.Row[Any]"]]
    defaults: Sequence["sa.Row[Any]"]
    members: dict[str, list[str]]
    powers: Sequence["sa.Row[Any]"]
    parameters: Sequence[str]
    event_triggers: Sequence["sa.Row[Any]"]
    audit_tables: Sequence[Name]

    def writers_of(self, audit: Name) -> list[ForeignTrigger]:
        """Return the triggers of others that insert into an audit table."""
        return [*self.writers.get(audit, ()), *self.writers.get((None, audit[1]), ())]


def read_health(
    connection: sa.Connection, places: Sequence[Place], looked_at: Collection[str]
) -> Health:
    """Return what stands around trails.

    Args:
        connection: Where to read.
        places: The trails.
        looked_at: Schemas in which audit tables are looked for.
    """
    names = sorted({name for place in places for name in (place.source, place.audit)})
    arguments = {
        "schemas": [schema for schema, _ in names],
        "names": [name for _, name in names],
        "audit_schemas": [place.function[0] for place in places],
        "functions": [place.function[1] for place in places],
        "audits": [place.audit[1] for place in places],
        "header": HEADER,
        "comment": COMMENT,
        "looked_at": sorted(looked_at),
    }

    def rows(query: str, **more: Any) -> Sequence["sa.Row[Any]"]:
        return _execute(connection, query, {**arguments, **more})

    relations = {_name(row): row for row in rows(_RELATIONS)}
    functions = {(row.nspname, row.proname): row for row in rows(_FUNCTIONS)}
    audit_tables = [_name(row) for row in rows(_AUDIT_TABLES)]
    audits = sorted({*arguments["audits"], *(name for _, name in audit_tables)})
    triggers = [foreign_trigger(row, row.prosrc) for row in rows(_TRIGGERS, audits=audits)]
    owners = sorted({row.owner for row in (*relations.values(), *functions.values())})
    version = connection.dialect.server_version_info or ()
    return Health(
        relations,
        functions,
        _grouped((_name(row), row) for row in rows(_TYPES)),
        _grouped((_name(row), row) for row in rows(_GRANTS)),
        _grouped(((row.top_schema, row.top), row) for row in rows(_CHILDREN)),
        _grouped((one.table, one) for one in triggers),
        _grouped((table, one) for one in triggers for table in dict.fromkeys(one.inserts_into)),
        _grouped((_name(row), row) for row in rows(_RULES)),
        _grouped((_name(row), row) for row in rows(_ODDITIES)),
        rows(_DEFAULTS),
        _grouped((row.owner, row.member) for row in rows(_MEMBERS, owners=owners)),
        rows(_POWERS),
        [row.grantee for row in rows(_PARAMETERS)] if version >= _PARAMETER_ACL_SINCE else [],
        rows(_EVENT_TRIGGERS),
        audit_tables,
    )


def _name(row: "sa.Row[Any]") -> Name:
    return (row.nspname, row.relname)


def _grouped(pairs: Iterable[tuple[_K, _V]]) -> dict[_K, list[_V]]:
    found: dict[_K, list[_V]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return dict(found)


def read_schemas(connection: sa.Connection) -> dict[str, bool]:
    """Return the schemas of a database, the system's left out: whether functions of ours exist."""
    found = _execute(connection, _SCHEMAS, {"header": HEADER})
    return {row.nspname: row.has_ours for row in found}


def _execute(
    connection: sa.Connection, query: str, arguments: dict[str, Any]
) -> Sequence["sa.Row[Any]"]:
    statement = sa.text(query)
    known = {name: value for name, value in arguments.items() if name in statement.compile().params}
    typed = [
        sa.bindparam(name, type_=sa.Text() if isinstance(value, str) else sa.ARRAY(sa.Text()))
        for name, value in known.items()
    ]
    return connection.execute(statement.bindparams(*typed), known).all()
