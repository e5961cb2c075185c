"""The statement that locks tables without a deadlock."""

from collections.abc import Sequence

from alembic_audit.naming import literal
from alembic_audit.sql.text import do_block


def lock(tables: Sequence[str], mode: str) -> str:
    """Return the statement that locks tables, each qualified and quoted.

    It waits for a lock only while it holds none of its others: what cannot be had at once is waited
    for alone and first, after the others were given back by a subtransaction that rolls back. So
    it cannot be part of a deadlock, in whatever order other transactions take these tables.

    Args:
        tables: The tables.
        mode: A lock mode of PostgreSQL (manual, 13.3.1).
    """
    names = ", ".join(map(literal, tables))
    return do_block(
        [
            "DECLARE",
            f"  names pg_catalog.text[] := ARRAY[{names}];",
            "  first pg_catalog.int4 := 1;",
            "  busy pg_catalog.int4 := 0;",
            "BEGIN",
            "  LOOP",
            "    BEGIN",
            "      busy := 0;",
            f"      EXECUTE pg_catalog.format('LOCK TABLE %s IN {mode} MODE', names[first]);",
            "      FOR number IN 1 .. pg_catalog.cardinality(names) LOOP",
            "        busy := number;",
            "        EXECUTE pg_catalog.format(",
            f"          'LOCK TABLE %s IN {mode} MODE NOWAIT', names[number]",
            "        );",
            "      END LOOP;",
            "      RETURN;",
            "    EXCEPTION WHEN lock_not_available THEN",
            "      IF busy OPERATOR(pg_catalog.=) 0 THEN",
            "        RAISE;  -- lock_timeout",
            "      END IF;",
            "      first := busy;",
            "    END;",
            "  END LOOP;",
            "END",
        ]
    )
