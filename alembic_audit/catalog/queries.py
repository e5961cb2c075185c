"""The statements that read the catalogs, whatever the number of tables."""

import sqlalchemy as sa

WANTED = """(n.nspname, c.relname) IN (
      SELECT * FROM ROWS FROM (
        pg_catalog.unnest(CAST(:schemas AS pg_catalog.text[])),
        pg_catalog.unnest(CAST(:names AS pg_catalog.text[]))
      ) AS wanted
    )"""
"""What picks, of pg_class AS c and pg_namespace AS n, the tables that a query is about."""

FUNCTIONS = sa.text(
    """
    SELECT p.oid, n.nspname, p.proname, p.prosrc, p.prosecdef, p.proconfig,
      pg_catalog.pg_get_userbyid(p.proowner)::pg_catalog.text AS owner,
      current_user::pg_catalog.text AS me, p.proacl IS NULL AS default_privileges, ARRAY(
      SELECT pg_catalog.concat(
        COALESCE(pg_catalog.quote_ident(r.rolname), 'PUBLIC'),
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END
      )
      FROM pg_catalog.aclexplode(
        COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner))
      ) AS a
      LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
      WHERE a.grantee <> p.proowner
      ORDER BY 1
    )::pg_catalog.text[] AS grantees
    FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.prorettype = 'pg_catalog.trigger'::pg_catalog.regtype
      AND (
        n.nspname = ANY (CAST(:schemas AS pg_catalog.text[]))
        OR pg_catalog.starts_with(p.prosrc, :header) AND EXISTS (
          SELECT FROM pg_catalog.pg_trigger AS t
          JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
          JOIN pg_catalog.pg_namespace AS tn ON tn.oid = c.relnamespace
          WHERE t.tgfoid = p.oid AND t.tgparentid = 0
            AND tn.nspname = ANY (CAST(:schemas AS pg_catalog.text[]))
        )
      )
      AND (
        pg_catalog.starts_with(p.prosrc, :header)
        OR p.proname IN (SELECT pg_catalog.unnest(CAST(:names AS pg_catalog.text[])))
        OR EXISTS (
          SELECT FROM pg_catalog.pg_trigger AS t,
            pg_catalog.unnest(CAST(:prefixes AS pg_catalog.text[])) AS prefix
          WHERE t.tgfoid = p.oid AND t.tgparentid = 0
            AND pg_catalog.starts_with(t.tgname::pg_catalog.text, prefix)
        )
      )
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS d
        WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
          AND d.deptype = 'e'
      )
    ORDER BY n.nspname, p.proname
    """
).bindparams(
    sa.bindparam("schemas", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("names", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("prefixes", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("header", type_=sa.Text()),
)

TRIGGERS = sa.text(
    """
    SELECT t.oid, t.tgname, n.nspname, c.relname, t.tgfoid, t.tgtype,
      t.tgenabled::pg_catalog.text, t.tgparentid AS parent,
      (t.tgnargs = 0 AND t.tgattr::pg_catalog.text = '' AND t.tgconstraint = 0) AS plain,
      t.tgoldtable, t.tgnewtable, t.tgqual IS NOT NULL AS conditional,
      CASE WHEN ours.oid IS NULL THEN p.prosrc END AS foreign_source,
      pn.nspname AS function_schema, p.proname
    FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
    JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.pronamespace
    LEFT JOIN pg_catalog.unnest(CAST(:functions AS pg_catalog.oid[])) AS ours (oid)
      ON ours.oid = t.tgfoid
    WHERE ours.oid IS NOT NULL
      OR (NOT t.tgisinternal AND t.tgparentid = 0 AND (n.nspname, c.relname) IN (
        SELECT * FROM ROWS FROM (
          pg_catalog.unnest(CAST(:table_schemas AS pg_catalog.text[])),
          pg_catalog.unnest(CAST(:tables AS pg_catalog.text[]))
        ) AS declared
      ))
    ORDER BY n.nspname, c.relname, t.tgname
    """
).bindparams(
    sa.bindparam("functions", type_=sa.ARRAY(sa.BigInteger())),
    sa.bindparam("table_schemas", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("tables", type_=sa.ARRAY(sa.Text())),
)

DEFINITIONS = sa.text(
    """
    SELECT t.oid, pg_catalog.pg_get_triggerdef(t.oid) FROM pg_catalog.pg_trigger AS t
    WHERE t.oid = ANY (CAST(:triggers AS pg_catalog.oid[]))
    """
).bindparams(sa.bindparam("triggers", type_=sa.ARRAY(sa.BigInteger())))
"""Where a trigger is other than meant. A condition locks its table: of such a one, it alone."""

RELATIONS = sa.text(
    f"""
    SELECT n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text AS owner,
      ARRAY(
        SELECT CASE WHEN NOT a.attisdropped THEN a.attname::pg_catalog.text END
        FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0
        ORDER BY a.attnum
      ) AS columns,
      c.relkind::pg_catalog.text, EXISTS (
        SELECT FROM pg_catalog.pg_inherits AS i WHERE c.oid IN (i.inhrelid, i.inhparent)
      ) AS inherits,
      ARRAY(
        SELECT pg_catalog.json_build_array(k.conname, k.confdeltype, k.confupdtype, k.conkey,
          -- PostgreSQL 15 and later have it.
          pg_catalog.to_jsonb(k) -> 'confdelsetcols')::pg_catalog.text
        FROM pg_catalog.pg_constraint AS k
        WHERE k.conrelid = c.oid AND k.contype = 'f'
          AND (k.confdeltype NOT IN ('a', 'r') OR k.confupdtype NOT IN ('a', 'r'))
        ORDER BY k.conname
      ) AS foreign_keys,
      sequence.nspname AS sequence_schema, sequence.relname AS sequence, sequence.seqcache
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN (
      SELECT d.refobjid, sn.nspname, sc.relname, s.seqcache
      FROM pg_catalog.pg_sequence AS s
      JOIN pg_catalog.pg_class AS sc ON sc.oid = s.seqrelid
      JOIN pg_catalog.pg_namespace AS sn ON sn.oid = sc.relnamespace
      JOIN pg_catalog.pg_depend AS d ON d.objid = s.seqrelid AND d.deptype = 'i'
        AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
      WHERE s.seqcache <> 1 AND a.attname = 'audit_id'
    ) AS sequence ON sequence.refobjid = c.oid
    WHERE c.relkind IN ('r', 'p', 'f') AND {WANTED}
    """
).bindparams(
    sa.bindparam("schemas", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("names", type_=sa.ARRAY(sa.Text())),
)

SHAPES = sa.text(
    f"""
    SELECT n.nspname, c.relname, pg_catalog.concat_ws(pg_catalog.chr(10),
      (
        SELECT pg_catalog.string_agg(line, pg_catalog.chr(10))
        FROM (
          SELECT pg_catalog.concat_ws(' ',
            pg_catalog.to_json(a.attname::pg_catalog.text)::pg_catalog.text,
            CASE WHEN a.atttypid < 16384
              THEN pg_catalog.format_type(a.atttypid, a.atttypmod) END,
            CASE WHEN a.attnotnull THEN 'NOT NULL' END,
            CASE WHEN a.atthasdef THEN 'DEFAULT' END,
            CASE WHEN a.attcollation NOT IN (0, 100) THEN 'COLLATE' END,
            CASE WHEN a.attidentity <> '' THEN (
              SELECT pg_catalog.concat_ws(' ', 'IDENTITY', a.attidentity, s.seqstart,
                s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle)
              FROM pg_catalog.pg_depend AS d
              JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = d.objid
              WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'i'
                AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                AND d.refobjid = c.oid AND d.refobjsubid = a.attnum
            ) END
          ) AS line
          FROM pg_catalog.pg_attribute AS a
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        ) AS columns
      ), (
        SELECT pg_catalog.string_agg(line, pg_catalog.chr(10))
        FROM (
          SELECT pg_catalog.concat_ws(' ',
            CASE WHEN i.indisprimary THEN 'PRIMARY KEY'
              ELSE 'INDEX' END,
            CASE WHEN NOT i.indisprimary
              THEN pg_catalog.to_json(ic.relname::pg_catalog.text)::pg_catalog.text END,
            (
              SELECT pg_catalog.string_agg(
                (
                  SELECT pg_catalog.to_json(a.attname::pg_catalog.text)::pg_catalog.text
                  FROM pg_catalog.pg_attribute AS a
                  WHERE a.attrelid = c.oid AND a.attnum = k.attnum
                ), ',' ORDER BY k.place
              )
              FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[])
                WITH ORDINALITY AS k (attnum, place)
            ),
            CASE WHEN i.indisunique AND NOT i.indisprimary THEN 'UNIQUE' END,
            CASE WHEN NOT i.indisvalid OR i.indnatts <> i.indnkeyatts OR i.indexprs IS NOT NULL
              OR i.indpred IS NOT NULL OR i.indoption::pg_catalog.text ~ '[1-9]'
              OR ic.reloptions IS NOT NULL OR ic.relam <> (
                SELECT am.oid FROM pg_catalog.pg_am AS am WHERE am.amname = 'btree'
              )
              OR i.indclass::pg_catalog.oid[] && ARRAY(
                SELECT o.oid FROM pg_catalog.pg_opclass AS o WHERE NOT o.opcdefault
              ) THEN 'OTHER' END
          ) AS line
          FROM pg_catalog.pg_index AS i
          JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
          WHERE i.indrelid = c.oid
        ) AS indexes
      )
    ) AS shape
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r'
      AND {WANTED}
      AND (n.nspname <> :default_schema OR pg_catalog.pg_table_is_visible(c.oid))
      AND EXISTS (
        SELECT FROM pg_catalog.pg_description AS d
        WHERE d.objoid = c.oid AND d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass
          AND d.objsubid = 0 AND d.description = :comment
      )
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_description AS d
        WHERE d.objoid = c.oid AND d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass
          AND d.objsubid > 0
      )
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_constraint AS k
        WHERE k.conrelid = c.oid AND k.contype NOT IN ('p', 'n')
      )
    """
).bindparams(
    sa.bindparam("schemas", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("names", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("default_schema", type_=sa.Text()),
    sa.bindparam("comment", type_=sa.Text()),
)
"""One text for each plain audit table, of the lines that ``shapes.declared`` returns of a Table.

They are sorted by the client: to sort them here, each would be made twice. What initdb made has a
number below 16384 (access/transam.h, FirstNormalObjectId), and "default" is the collation 100
(pg_collation.dat): to join pg_type would cost as much as all of the rest.
"""
