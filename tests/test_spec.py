import json
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, reject, settings
from hypothesis import strategies as st

from alembic_audit import sql
from alembic_audit.errors import SpecError
from alembic_audit.naming import MAX_IDENTIFIER_BYTES, literal, quote, shorten
from alembic_audit.spec import HEADER, OPERATIONS, STYLES, AuditSpec, NewerSpecError
from tests.conftest import Database

# A loaded machine is no failure.
quick = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

# PostgreSQL holds no NUL and UTF-8 no surrogates; other control characters are refused by us.
texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=80)
names = st.one_of(
    st.sampled_from(["a", "b", "audit_id", "audit_a", "new", 'q"', "%s", ":x", "\\", "$audit$"]),
    texts.filter(lambda name: 0 < len(name.encode()) <= 63),
)
schemas = st.none() | names
setting_names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,20}", fullmatch=True)


@st.composite
def specs(draw: st.DrawFn) -> AuditSpec:
    """Return any spec that can be declared, or written by hand in a migration."""
    stored = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    cut = draw(st.integers(0, len(stored)))
    columns, hashed = stored[:cut], stored[cut:]
    key = draw(st.lists(st.sampled_from(columns), unique=True)) if columns else []
    others = [name for name in stored if name not in key]
    ignored = draw(st.lists(st.sampled_from(others), unique=True)) if others else []
    needs = draw(
        st.dictionaries(setting_names, st.sampled_from(["required", "nullable"]), max_size=3)
    )
    given_columns = draw(st.sets(st.sampled_from(sorted(needs)))) if needs else set()
    kwargs: dict[str, Any] = {
        "schema": draw(schemas),
        "audit_table": draw(schemas),
        "audit_schema": draw(schemas),
        "function": draw(schemas),
        "trigger": draw(schemas),
        "key": key,
        "columns": columns,
        "hash_columns": hashed,
        "ignore_columns": ignored,
        "session_settings": needs,
        "setting_columns": {name: draw(names) for name in sorted(given_columns)},
        "operations": draw(st.sets(st.sampled_from(OPERATIONS), min_size=1)),
        "audit_columns": draw(st.sampled_from(STYLES)),
        "skip_unchanged": draw(st.booleans()),
        "changed_columns": draw(st.booleans()),
    }
    try:
        return AuditSpec.from_kwargs(draw(names), **kwargs)
    except SpecError:
        reject()  # names that collide, or nothing left to watch


only_hashed = AuditSpec.from_kwargs("t", hash_columns=["a"])
classic_with_our_name = AuditSpec.from_kwargs("t", columns=["audit_id"], audit_columns="classic")


@quick
@given(specs())
@example(only_hashed)
@example(classic_with_our_name)
def test_kwargs_round_trip(spec: AuditSpec) -> None:
    """The arguments that stand in a migration make the same spec again, short or complete."""
    assert AuditSpec.from_kwargs(spec.table, **spec.to_kwargs()) == spec
    assert AuditSpec.from_kwargs(spec.table, **spec.full_kwargs()) == spec


@quick
@given(specs())
def test_kwargs_are_literals(spec: AuditSpec) -> None:
    """What repr() writes into a migration reads back as the same arguments."""
    assert eval(repr(spec.to_kwargs()), {"__builtins__": {}}) == spec.to_kwargs()


@quick
@given(specs())
@example(only_hashed)
@example(classic_with_our_name)
def test_body_round_trip(spec: AuditSpec) -> None:
    """The generated function says, in one line of ASCII, which spec it was made from."""
    body = sql.body(spec, "public")
    assert AuditSpec.from_body(body) == spec
    first = body.split("\n")[0]
    assert first.startswith(HEADER)
    assert first.isascii()
    assert first.isprintable()


@quick
@given(specs())
def test_template_has_no_control_characters(spec: AuditSpec) -> None:
    """Alembic's offline mode turns tabs into spaces, so a body has none, nor CR."""
    assert not any(character < " " for character in sql.body(spec, "public").replace("\n", ""))


@quick
@given(specs(), st.integers(2, 10**9))
def test_newer_version_is_left_alone(spec: AuditSpec, version: int) -> None:
    """A header of a newer template version is neither read nor taken for no header."""
    newer = sql.body(spec, "public").replace('"version":1', f'"version":{version}', 1)
    assume(json.loads(newer.split("\n")[0].removeprefix(HEADER))["version"] == version)
    with pytest.raises(NewerSpecError, match=f"version {version} is newer"):
        AuditSpec.from_body(newer)


def test_unknown_argument_is_newer() -> None:
    """A header with an argument that is not known here was written by a newer version."""
    body = HEADER + '{"table":"t","columns":["a"],"version":1,"sparkle":true}\n'
    with pytest.raises(NewerSpecError, match="sparkle"):
        AuditSpec.from_body(body)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "BEGIN\nEND",
        f"\n{HEADER}{{}}",
        HEADER,
        f"{HEADER}[]",
        f"{HEADER}{{}}",
        f"{HEADER}not json",
        f'{HEADER}{{"table":"t","version":1}}',
        f'{HEADER}{{"table":"t","columns":["a"],"version":"1"}}',
    ],
)
def test_no_header(body: str) -> None:
    """A body without a header, or with one that describes nothing, has no spec."""
    assert AuditSpec.from_body(body) is None


def test_order_of_settings_and_operations_means_nothing() -> None:
    """Specs that do the same are equal, whatever order somebody wrote them in."""
    one = AuditSpec.from_kwargs(
        "t",
        columns=["a"],
        session_settings={"x": "required", "b": "nullable"},
        operations=["delete", "insert"],
    )
    other = AuditSpec.from_kwargs(
        "t",
        columns=["a"],
        session_settings={"b": "nullable", "x": "required"},
        operations=["insert", "delete"],
    )
    assert one == other


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "no column of 't' would be recorded"),
        ({"columns": "abc"}, "columns must be a list of column names, found the string 'abc'"),
        ({"columns": ["a", "a"]}, "columns names a column twice: ['a', 'a']"),
        ({"columns": ["a\n"]}, r"columns 'a\n' holds a control character"),
        ({"columns": [""]}, "columns must be a non-empty string, found ''"),
        ({"columns": ["a"], "hash_columns": ["a"]}, "stand in columns and in hash_columns"),
        ({"columns": ["a"], "key": ["b"]}, "key columns ['b'] of 't' are not in columns"),
        ({"hash_columns": ["a"], "key": ["a"]}, "key columns ['a'] of 't' are not in columns"),
        ({"columns": ["a"], "ignore_columns": ["b"]}, "['b'], which are not stored"),
        ({"columns": ["a"], "ignore_columns": ["a"]}, "leaves no column to watch"),
        ({"columns": ["a"], "operations": []}, "operations of 't' is empty"),
        ({"columns": ["a"], "operations": ["merge"]}, "operations must be one of insert, update"),
        ({"columns": ["a"], "audit_columns": "new"}, "audit_columns must be one of standard"),
        ({"columns": ["a"], "session_settings": {"1x": "nullable"}}, "cannot be read as audit.1x"),
        ({"columns": ["a"], "session_settings": {"x": "maybe"}}, "found 'maybe'"),
        (
            {
                "columns": ["a"],
                "session_settings": {"x": "nullable", "X": "nullable"},
                "setting_columns": {"X": "y"},
            },
            "session_settings of 't' names a setting twice",
        ),
        ({"columns": ["a"], "setting_columns": {"x": "y"}}, "session_settings does not have"),
        ({"columns": ["audit_id"]}, "would have two columns 'audit_id'"),
        ({"columns": ["a_sha256"], "hash_columns": ["a"]}, "two columns 'a_sha256'"),
        ({"columns": [f"c{n}" for n in range(1596)]}, "would have 1601 columns"),
    ],
)
def test_refused(kwargs: dict[str, Any], message: str) -> None:
    """What cannot be recorded is refused with a message that names table or argument."""
    with pytest.raises(SpecError) as caught:
        AuditSpec.from_kwargs("t", **kwargs)
    assert message in str(caught.value)


@quick
@given(texts)
def test_shorten(name: str) -> None:
    """A name that fits stays; one that does not keeps its beginning and fits afterwards."""
    short = shorten(name)
    assert len(short.encode()) <= MAX_IDENTIFIER_BYTES
    assert shorten(short) == short
    if len(name.encode()) <= MAX_IDENTIFIER_BYTES:
        assert short == name
    else:
        head, _, digest = short.rpartition("_")
        assert name.startswith(head)
        assert len(digest) == 8


@quick
@given(st.text("ä", min_size=40, max_size=60), texts, texts)
def test_shorten_keeps_names_apart(head: str, one: str, other: str) -> None:
    """Two long names that begin alike stay two names."""
    assume(one != other)
    assert shorten(head + one) != shorten(head + other)


@quick
@given(st.text(), st.text())
def test_quote_is_one_identifier(name: str, rest: str) -> None:
    """Between the outer quotes every quote is doubled, so no name ends its identifier."""
    assert quote(name)[1:-1].replace('""', "") == name.replace('"', "")
    assert quote(name)[1:-1].replace('""', '"') == name


@settings(quick, suppress_health_check=list(HealthCheck), max_examples=20)
@given(st.lists(texts, min_size=1, max_size=20), st.sampled_from(["on", "off"]))
@example(["\\", "'", "\\'", "a\\nb", "%s", "%%", ":x", "$1", '"'], "on")
@example(["\\", "'", "\\'", "a\\nb", "%s", "%%", ":x", "$1", '"'], "off")
def test_server_reads_literal_and_quote(
    database: Database, values: list[str], conforming: str
) -> None:
    """PostgreSQL reads back each value and each name, whatever standard_conforming_strings says."""
    identifiers = [shorten("n" + value) for value in values]
    columns = ", ".join(
        f"{literal(value)}::text AS {quote(name)}"
        for value, name in zip(values, identifiers, strict=True)
    )
    connection = database.engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(f"SET standard_conforming_strings TO {conforming}")
        cursor.execute(f"SELECT {columns}")
        assert [column[0] for column in cursor.description] == identifiers
        assert cursor.fetchone() == tuple(values)
    finally:
        connection.close()


@quick
@given(st.text(st.sampled_from("$audit_ \n"), max_size=30))
def test_dollar_quote(text: str) -> None:
    """The closing tag stands nowhere before the end, so no text ends its own quotes."""
    quoted = sql.dollar_quote(text)
    tag = quoted[: quoted.index("$", 1) + 1]
    assert quoted.index(tag, len(tag)) == len(quoted) - len(tag)
    assert quoted == tag + text + tag
