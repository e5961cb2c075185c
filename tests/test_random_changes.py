"""Random declarations one after the other: each follows from the last, and no value is lost."""

import re
import tempfile
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import _database
from tests.journey import Models
from tests.test_changes import account, setting
from tests.test_columns import Walk
from tests.test_every_change import NAMES
from tools import postgres

NOTES = [None, sa.Text(), sa.String(5), sa.String(10), sa.SmallInteger(), sa.BigInteger()]
WRITES = (
    "SET LOCAL audit.who = 'ann'",
    "SET LOCAL audit.why = 'because'",
    "INSERT INTO account (id, email) VALUES (1, 'a@x') ON CONFLICT DO NOTHING",
    "UPDATE account SET email = 'b@x'",
    "INSERT INTO account (id, email) VALUES (2, 'c@x')",
    "DELETE FROM account WHERE id = 2",
)
NOTE = "UPDATE account SET note = '1234'"


@st.composite
def walks(draw: st.DrawFn) -> list[tuple[Models, tuple[str, ...]]]:
    """Return models in a row, and what is written while they hold.

    A trail either stops at times or has other names: one that began anew elsewhere would, on its
    way down, come to where the records of the first are.
    """
    stops = draw(st.booleans())
    place = draw(places())
    return [
        draw(declared(place if stops else draw(places()), draw(st.booleans()) or not stops))
        for _ in range(draw(st.integers(2, 4)))
    ]


@st.composite
def places(draw: st.DrawFn) -> dict[str, Any]:
    """Return where a trail is."""
    return {
        "naming": draw(st.sampled_from([{}, NAMES])),
        "schema_name": draw(st.sampled_from([None, "aside"])),
    }


@st.composite
def declared(
    draw: st.DrawFn, place: dict[str, Any], audited: bool
) -> tuple[Models, tuple[str, ...]]:
    """Return models, and what is written while they hold."""
    names = st.sampled_from(["", "hash_columns", "ignore_columns", "exclude_columns"])
    flags = {name: draw(st.booleans()) for name in ("skip_unchanged", "changed_columns", "always")}
    who = st.sampled_from(
        [[], [setting("who")], [setting("who", nullable=False)], [setting("why", sa.String(20))]]
    )
    options: dict[str, Any] = {
        **{name: True for name, on in flags.items() if on},
        "session_settings": draw(who) + draw(st.sampled_from([[], [setting("more", sa.Uuid)]])),
        "audit_columns": draw(st.sampled_from(["standard", "classic"])),
        "operations": draw(st.sampled_from([["insert", "update"], ["delete", "truncate"]])),
    }
    if name := draw(names):
        options[name] = ["email"]
    kind = draw(st.sampled_from(NOTES))
    note = [] if kind is None else [sa.Column("note", kind)]
    models = account(*note, audited=audited, **place, **options)
    return models, (*WRITES, NOTE) if note else WRITES


def casts(text: str) -> str:
    """Give each retyped column of the table its USING, as a person would."""

    def using(match: re.Match[str]) -> str:
        kind = eval(match[2], {"sa": sa})
        return f"{match[1]}{match[2]}, postgresql_using='note::text::{kind}',\n"

    return re.sub(r"(alter_column\('account', 'note',\n.*\n +type_=)(.*\)),\n", using, text)


@settings(max_examples=8, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(walks())
def test_random_changes(
    server: postgres.Server, states: list[tuple[Models, tuple[str, ...]]]
) -> None:
    """Autogenerate leads from any declaration to any other, and its downgrades lead back."""
    with _database(server) as database, tempfile.TemporaryDirectory() as path:
        walk = Walk(Path(path), database, include_schemas=True)
        for models, writes in states:
            walk.to(models, *writes, edit=casts)
        walk.down_and_up()
