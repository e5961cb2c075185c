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
    return do_block(
        [
            "DECLARE",
            f"  names pg_catalog.text[] := ARRAY[{names}];",
            "  first pg_catalog.int4 := 1;",
            "  place pg_catalog.int4;",
            "  waits pg_catalog.bool;",
            "BEGIN",
            "  WHILE pg_catalog.cardinality(names) OPERATOR(pg_catalog.>) 0 LOOP",
            "    BEGIN",
            "      place := first;",
            "      waits := true;",
            f"      EXECUTE pg_catalog.format('LOCK TABLE %s IN {mode} MODE', names[first]);",
            "      waits := false;",
            "      FOR number IN 1 .. pg_catalog.cardinality(names) LOOP",
            "        place := number;",
            "        EXECUTE pg_catalog.format(",
            f"          'LOCK TABLE %s IN {mode} MODE NOWAIT', names[number]",
            "        );",
            "      END LOOP;",
            "      RETURN;",
            "    EXCEPTION",
            "      WHEN lock_not_available THEN",
            "        IF waits THEN",
            "          RAISE;  -- lock_timeout",
            "        END IF;",
            "        first := place;",
            "      WHEN insufficient_privilege THEN",
            "        names := pg_catalog.array_remove(names, names[place]);",
            "        first := 1;",
            "    END;",
            "  END LOOP;",
            "END",
        ]
    )
