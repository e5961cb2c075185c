"""A picture of a database's catalog, to compare before and after.

Objects are named, never numbered, and columns stand under their names: one that was dropped and
added again is the same column. Privileges are sets, with the default spelt out.
"""

from typing import Any

import sqlalchemy as sa

_USERS = """
    n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

_NOT_ALEMBIC = """
    c.oid IS DISTINCT FROM pg_catalog.to_regclass('alembic_version')
    AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_index AS own
      WHERE own.indexrelid = c.oid
        AND own.indrelid = pg_catalog.to_regclass('alembic_version')
    )
"""


def _acl(acl: str, kind: str, owner: str) -> str:
    return f"""
      (SELECT pg_catalog.array_agg(pg_catalog.concat_ws(' ',
          COALESCE(b.rolname, 'PUBLIC'), a.privilege_type,
          CASE WHEN a.is_grantable THEN 'WITH GRANT OPTION' END, 'BY', g.rolname))
       FROM pg_catalog.aclexplode(COALESCE({acl}, pg_catalog.acldefault('{kind}', {owner}))) AS a
       LEFT JOIN pg_catalog.pg_roles AS b ON b.oid = a.grantee
       LEFT JOIN pg_catalog.pg_roles AS g ON g.oid = a.grantor)
    """


def _owner(owner: str) -> str:
    return f"pg_catalog.pg_get_userbyid({owner})"


_QUERIES = {
    "schemas": f"""
      SELECT n.nspname AS name, {_owner("n.nspowner")} AS owner,
        {_acl("n.nspacl", "n", "n.nspowner")} AS acl,
        pg_catalog.obj_description(n.oid, 'pg_namespace') AS comment
      FROM pg_catalog.pg_namespace AS n WHERE {_USERS}
    """,
    "relations": f"""
      SELECT pg_catalog.concat_ws('.', n.nspname, c.relname) AS name,
        c.relkind::text, c.relpersistence::text, c.relrowsecurity, c.relforcerowsecurity,
        c.relispartition, c.reloptions, {_owner("c.relowner")} AS owner,
        CASE c.relkind WHEN 'S' THEN {_acl("c.relacl", "s", "c.relowner")}
          WHEN 'i' THEN NULL ELSE {_acl("c.relacl", "r", "c.relowner")} END AS acl,
        pg_catalog.obj_description(c.oid, 'pg_class') AS comment
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      WHERE {_USERS} AND {_NOT_ALEMBIC}
    """,
    "columns": f"""
      SELECT pg_catalog.concat_ws('.', n.nspname, c.relname, a.attname) AS name,
        pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull,
        pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS default, a.attidentity::text,
        a.attgenerated::text, a.attstorage::text, a.attoptions,
        (SELECT l.collname FROM pg_catalog.pg_collation AS l WHERE l.oid = a.attcollation)
          AS collation,
        (SELECT pg_catalog.array_agg(x::text) FROM pg_catalog.unnest(a.attacl) AS x) AS acl,
        pg_catalog.col_description(c.oid, a.attnum) AS comment
      FROM pg_catalog.pg_attribute AS a
      JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND {_USERS} AND {_NOT_ALEMBIC}
    """,
    "constraints": f"""
      SELECT pg_catalog.concat_ws('.', n.nspname, c.relname, o.conname) AS name, o.contype::text,
        o.convalidated, pg_catalog.pg_get_constraintdef(o.oid) AS definition,
        pg_catalog.obj_description(o.oid, 'pg_constraint') AS comment
      FROM pg_catalog.pg_constraint AS o
      JOIN pg_catalog.pg_class AS c ON c.oid = o.conrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      WHERE {_USERS} AND {_NOT_ALEMBIC}
    """,
    "indexes": f"""
      SELECT pg_catalog.concat_ws('.', n.nspname, c.relname) AS name, i.indisvalid, i.indisunique,
        i.indisprimary, pg_catalog.pg_get_indexdef(i.indexrelid) AS definition
      FROM pg_catalog.pg_index AS i
      JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      WHERE {_USERS} AND {_NOT_ALEMBIC}
    """,
    "triggers": f"""
      SELECT pg_catalog.concat_ws('.', n.nspname, c.relname, t.tgname) AS name, t.tgtype,
        t.tgenabled::text, t.tgparentid <> 0 AS cloned, t.tgdeferrable, t.tginitdeferred,
        pg_catalog.encode(t.tgargs, 'escape') AS args, t.tgoldtable, t.tgnewtable,
        pg_catalog.concat_ws('.', fn.nspname, f.proname) AS function,
        pg_catalog.pg_get_triggerdef(t.oid) AS definition,
        pg_catalog.obj_description(t.oid, 'pg_trigger') AS comment
      FROM pg_catalog.pg_trigger AS t
      JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_proc AS f ON f.oid = t.tgfoid
      JOIN pg_catalog.pg_namespace AS fn ON fn.oid = f.pronamespace
      -- Below 15 a partition's clone counts as internal, as a constraint's trigger does.
      WHERE (NOT t.tgisinternal OR t.tgparentid <> 0 AND t.tgconstraint = 0) AND {_USERS}
    """,
    "functions": f"""
      SELECT pg_catalog.concat(n.nspname, '.', p.proname, '(',
          pg_catalog.pg_get_function_identity_arguments(p.oid), ')') AS name,
        p.prosrc, p.prosecdef, p.proconfig, p.provolatile::text, p.proparallel::text,
        p.proisstrict, p.proleakproof, p.procost,
        pg_catalog.format_type(p.prorettype, NULL) AS returns, l.lanname,
        {_owner("p.proowner")} AS owner, {_acl("p.proacl", "f", "p.proowner")} AS acl,
        pg_catalog.obj_description(p.oid, 'pg_proc') AS comment
      FROM pg_catalog.pg_proc AS p
      JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
      JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
      WHERE {_USERS}
    """,
    "sequences": f"""
      SELECT pg_catalog.concat_ws('.', n.nspname, c.relname) AS name,
        pg_catalog.format_type(s.seqtypid, NULL) AS type, s.seqstart, s.seqincrement, s.seqmax,
        s.seqmin, s.seqcache, s.seqcycle,
        (SELECT pg_catalog.concat_ws(' ', d.deptype, d.refobjid::regclass, a.attname)
         FROM pg_catalog.pg_depend AS d
         JOIN pg_catalog.pg_attribute AS a
           ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
           AND d.deptype IN ('a', 'i')) AS owned_by
      FROM pg_catalog.pg_sequence AS s
      JOIN pg_catalog.pg_class AS c ON c.oid = s.seqrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      WHERE {_USERS}
    """,
    "types": f"""
      SELECT pg_catalog.concat_ws('.', n.nspname, t.typname) AS name, t.typtype::text,
        {_owner("t.typowner")} AS owner,
        ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = t.oid
          ORDER BY e.enumsortorder) AS labels,
        pg_catalog.obj_description(t.oid, 'pg_type') AS comment
      FROM pg_catalog.pg_type AS t
      JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
      WHERE t.typtype IN ('d', 'e') AND {_USERS}
    """,
}


def snapshot(engine: sa.Engine) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what the catalog of a database holds: kind of object, name, property, value.

    The system's schemas and Alembic's own table are left out.
    """
    with engine.connect() as connection:
        return {
            kind: {
                row["name"]: {
                    key: frozenset(value) if key == "acl" and value is not None else value
                    for key, value in row.items()
                    if key != "name"
                }
                for row in connection.exec_driver_sql(query).mappings()
            }
            for kind, query in _QUERIES.items()
        }
