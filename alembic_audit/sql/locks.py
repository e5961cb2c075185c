"""The statement that locks tables without a deadlock."""

from collections.abc import Sequence

from alembic_audit.naming import literal
from alembic_audit.sql.text import do_block


def lock(tables: Sequence[str], mode: str) -> str:
    """Return the statement that locks tables, each qualified and quoted.

    It waits for a lock only while it holds none of its others: what cannot be had at once is waited
    for alone and first, after the others were given back by a subtransaction that rolls back. So
    it cannot be part of a deadlock, in whatever order other transactions take these tables.
    A table that the role may alter but not LOCK, as one may with TRIGGER alone, is left to the
    statements that alter it.

    Args:
        tables: The tables.
        mode: A lock mode of PostgreSQL (manual, 13.3.1).
    """
    names = ", ".join(map(literal, tables))
    table = f"pg_catalog.format('LOCK TABLE %s IN {mode} MODE', item)"
    return do_block(
        [
            "DECLARE",
            f"  names pg_catalog.text[] := ARRAY[{names}];",
            "  item pg_catalog.text := names[1];",
            f"  wanted pg_catalog.text := {table};",
            "  waits pg_catalog.bool;",
            f"  sequences pg_catalog.bool := {str(mode == 'ACCESS EXCLUSIVE').lower()};",
            "  former pg_catalog.text := pg_catalog.current_setting('lock_timeout');",
            "BEGIN",
            "  WHILE pg_catalog.cardinality(names) OPERATOR(pg_catalog.>) 0 LOOP",
            "    BEGIN",
            "      waits := true;",
            "      EXECUTE wanted;",
            "      waits := false;",
            "      FOREACH item IN ARRAY names LOOP",
            f"        wanted := {table};",
            "        EXECUTE pg_catalog.concat(wanted, ' NOWAIT');",
            "      END LOOP;",
            *_lock_sequences(),
            "      RETURN;",
            "    EXCEPTION",
            "      WHEN lock_not_available THEN",
            "        IF waits THEN",
            "          RAISE;  -- lock_timeout",
            "        END IF;",
            "      WHEN insufficient_privilege THEN",
            "        IF pg_catalog.starts_with(wanted, 'ALTER SEQUENCE ') THEN",
            "          sequences := false;",
            "        ELSE",
            "          names := pg_catalog.array_remove(names, item);",
            "        END IF;",
            "        item := names[1];",
            f"        wanted := {table};",
            "    END;",
            "  END LOOP;",
            "END",
        ]
    )


def _lock_sequences() -> list[str]:
    """Return what locks the sequences of the tables, and gives up where it would wait.

    No statement locks a sequence and does nothing, nor with NOWAIT; giving one to its owner does.
    """
    return [
        "      PERFORM pg_catalog.set_config('lock_timeout', '10ms', true);",
        "      FOR wanted IN",
        "        SELECT pg_catalog.format('ALTER SEQUENCE %s OWNER TO %I',",
        "          c.oid::pg_catalog.regclass, pg_catalog.pg_get_userbyid(c.relowner))",
        "        FROM pg_catalog.pg_depend AS d",
        "        JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) d.objid",
        "        WHERE sequences AND d.classid OPERATOR(pg_catalog.=)",
        "            'pg_catalog.pg_class'::pg_catalog.regclass",
        "          AND d.refclassid OPERATOR(pg_catalog.=) d.classid",
        "          AND d.refobjid OPERATOR(pg_catalog.=)",
        "            ANY (names::pg_catalog.regclass[]::pg_catalog.oid[])",
        "          AND d.deptype OPERATOR(pg_catalog.=)",
        "            ANY (ARRAY['a', 'i']::pg_catalog.\"char\"[])",
        "          AND c.relkind OPERATOR(pg_catalog.=) 'S'",
        "      LOOP",
        "        EXECUTE wanted;",
        "      END LOOP;",
        "      PERFORM pg_catalog.set_config('lock_timeout', former, true);",
    ]
