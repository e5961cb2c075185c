"""What reading a table would run, and whether its owners may act as the reader already.

To plan or to execute a SELECT runs code that belongs to others: of views, index expressions and
predicates, CHECK constraints, generated columns, policies, extended statistics, operator classes,
casts and functions of types, and the same of every inheritance child. It runs with the rights of
the reader, and ``SET ROLE`` is no protection: the code can reset the role. So whoever may act as an
owner has to be somebody who may act as the reader anyway: the reader, a member of the reader's
role, a superuser. Before PostgreSQL 16 a role with CREATEROLE may act as any that is no superuser.
A reader that has nothing but SELECT has nothing to lose, whoever owns the table.
"""

_EQ = "OPERATOR(pg_catalog.=)"

_OWNERS = (
    ("pg_class", "relowner"),
    ("pg_type", "typowner"),
    ("pg_proc", "proowner"),
    ("pg_operator", "oprowner"),
    ("pg_opclass", "opcowner"),
    ("pg_opfamily", "opfowner"),
    ("pg_namespace", "nspowner"),
    ("pg_language", "lanowner"),
    ("pg_foreign_server", "srvowner"),
    ("pg_foreign_data_wrapper", "fdwowner"),
    ("pg_statistic_ext", "stxowner"),
    ("pg_ts_config", "cfgowner"),
    ("pg_ts_dict", "dictowner"),
)
"""Catalogs with the column that says who owns an object of theirs."""

# Of a table: what it is read with. Of a type: what coercing a value of it calls. Of a family of
# operators: what an index calls. pg_depend leads on from each. Built-in objects are not in it.
_PARTS = (
    ("pg_class", "pg_class", "indexrelid", "pg_index", "indrelid", ""),
    ("pg_class", "pg_class", "inhrelid", "pg_inherits", "inhparent", ""),
    ("pg_class", "pg_attrdef", "oid", "pg_attrdef", "adrelid", ""),
    ("pg_class", "pg_constraint", "oid", "pg_constraint", "conrelid", f"x.contype {_EQ} 'c'"),
    ("pg_class", "pg_policy", "oid", "pg_policy", "polrelid", ""),
    ("pg_class", "pg_rewrite", "oid", "pg_rewrite", "ev_class", ""),
    ("pg_class", "pg_statistic_ext", "oid", "pg_statistic_ext", "stxrelid", ""),
    ("pg_type", "pg_constraint", "oid", "pg_constraint", "contypid", ""),
    ("pg_type", "pg_proc", "castfunc", "pg_cast", "castsource", ""),
    ("pg_opfamily", "pg_proc", "amproc", "pg_amproc", "amprocfamily", ""),
    ("pg_opfamily", "pg_operator", "amopopr", "pg_amop", "amopfamily", ""),
)


def _oid(catalog: str) -> str:
    return f"'pg_catalog.{catalog}'::pg_catalog.regclass::pg_catalog.oid"


def _part(of: str, kind: str, column: str, catalog: str, key: str, condition: str) -> str:
    more = f" AND {condition}" if condition else ""
    return f"""
        SELECT {_oid(kind)}, x.{column}::pg_catalog.oid FROM pg_catalog.{catalog} AS x
        WHERE part.classid {_EQ} {_oid(of)} AND x.{key} {_EQ} part.objid{more}"""


_MORE = " UNION ALL".join(_part(*each) for each in _PARTS)
_OWNED = " UNION ALL".join(
    f"""
      SELECT part.relation, part.classid, part.objid, x.{column}
      FROM part JOIN pg_catalog.{catalog} AS x ON x.oid {_EQ} part.objid
      WHERE part.classid {_EQ} {_oid(catalog)}"""
    for catalog, column in _OWNERS
)

_MINE = (
    "(pg_catalog.pg_has_role(SESSION_USER, m.oid, 'MEMBER') "
    "OR pg_catalog.pg_has_role(CURRENT_USER, m.oid, 'MEMBER'))"
)


def _grants(catalog: str, acl: str, allowed: str) -> str:
    privileges = ", ".join(f"'{one}'" for one in allowed.split())
    return f"""
        SELECT FROM pg_catalog.{catalog} AS x
        CROSS JOIN pg_catalog.aclexplode(x.{acl}) AS a
        JOIN pg_catalog.pg_roles AS m ON m.oid {_EQ} a.grantee
        WHERE {_MINE} AND (
          a.is_grantable OR NOT a.privilege_type {_EQ} ANY (ARRAY[{privileges}])
        )"""


_ACLS = " UNION ALL".join(
    (
        _grants("pg_class", "relacl", "SELECT"),
        _grants("pg_attribute", "attacl", "SELECT"),
        _grants("pg_namespace", "nspacl", "USAGE"),
        _grants("pg_database", "datacl", "CONNECT TEMPORARY"),
        _grants("pg_type", "typacl", "USAGE"),
        _grants("pg_proc", "proacl", "NONE"),
        _grants("pg_language", "lanacl", "USAGE"),
        _grants("pg_foreign_server", "srvacl", "NONE"),
        _grants("pg_foreign_data_wrapper", "fdwacl", "NONE"),
        _grants("pg_tablespace", "spcacl", "NONE"),
        _grants("pg_largeobject_metadata", "lomacl", "SELECT"),
    )
)

ONLY_SELECTS = f"""(
      NOT EXISTS (
        SELECT FROM pg_catalog.pg_roles AS m
        WHERE {_MINE} AND (
          m.rolsuper OR m.rolcreaterole OR m.rolcreatedb OR m.rolreplication OR m.rolbypassrls
          OR m.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid
        )
      ) AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_shdepend AS d
        JOIN pg_catalog.pg_roles AS m ON m.oid {_EQ} d.refobjid
        WHERE d.refclassid {_EQ} {_oid("pg_authid")} AND {_MINE}
          AND (d.deptype {_EQ} 'o' OR d.classid::pg_catalog.regclass::pg_catalog.text {_EQ}
            ANY (ARRAY['pg_parameter_acl', 'pg_catalog.pg_parameter_acl']))
      ) AND NOT EXISTS ({_ACLS}
      )
    )"""
"""Whether the reader owns nothing and may do nothing but read, by no role of which it is a member.

Roles below 16384 are those of PostgreSQL itself, as ``pg_read_all_data``. What PUBLIC may do,
everybody may.
"""


def untrusted(relations: str, trusted: str = "NULL::pg_catalog.name[]") -> str:
    """The SELECT of what reading tables would run and belongs to a role that is not trusted.

    Its columns are ``relation`` (an OID), ``what``, ``is_part``, false for the table itself, and
    ``owner``.

    Args:
        relations: SQL of an array of OIDs.
        trusted: SQL of an array of names of roles that are trusted besides.
    """
    return f"""
    WITH RECURSIVE part (relation, classid, objid) AS (
      SELECT c.oid, {_oid("pg_class")}, c.oid
      FROM pg_catalog.pg_class AS c WHERE c.oid {_EQ} ANY ({relations})
      UNION
      SELECT part.relation, next.classid, next.objid
      FROM part CROSS JOIN LATERAL (
        SELECT d.refclassid, d.refobjid FROM pg_catalog.pg_depend AS d
        WHERE d.classid {_EQ} part.classid AND d.objid {_EQ} part.objid
          AND d.deptype {_EQ} ANY (ARRAY['n', 'a', 'i']::pg_catalog."char"[])
          AND (d.refclassid OPERATOR(pg_catalog.<>) {_oid("pg_namespace")}
            OR part.objid {_EQ} part.relation)
        UNION ALL{_MORE}
      ) AS next (classid, objid)
    ), owned (relation, classid, objid, owner) AS ({_OWNED}
    )
    SELECT DISTINCT owned.relation,
      pg_catalog.pg_describe_object(owned.classid, owned.objid, 0) AS what,
      owned.objid OPERATOR(pg_catalog.<>) owned.relation AS is_part,
      r.rolname::pg_catalog.text AS owner
    FROM owned
    JOIN pg_catalog.pg_database AS b ON b.datname {_EQ} pg_catalog.current_database()
    JOIN pg_catalog.pg_roles AS r ON r.oid {_EQ} CASE
      WHEN owned.owner {_EQ} 'pg_database_owner'::pg_catalog.regrole::pg_catalog.oid
      THEN b.datdba ELSE owned.owner END
    WHERE EXISTS (
      SELECT FROM pg_catalog.pg_roles AS m
      WHERE m.rolcanlogin AND NOT (
        pg_catalog.pg_has_role(m.oid, SESSION_USER, 'USAGE')
        AND pg_catalog.pg_has_role(m.oid, CURRENT_USER, 'USAGE')
      ) AND (
        pg_catalog.pg_has_role(m.oid, r.oid, 'MEMBER')
        OR m.rolcreaterole AND NOT r.rolsuper
          AND pg_catalog.current_setting('server_version_num')::pg_catalog.int4
            OPERATOR(pg_catalog.<) 160000
      )
    )
      AND NOT COALESCE(r.rolname {_EQ} ANY ({trusted}), false)
      AND NOT {ONLY_SELECTS}
    """
