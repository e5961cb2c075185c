"""set_session_vars and instrument: session settings, sent for the transaction.

Settings go out as ``SELECT set_config($1, $2, true), ...``: bound parameters, one statement for all
of them, and gone when the transaction ends.
"""

import dataclasses
import itertools
import re
import weakref
from collections.abc import Awaitable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import sqlalchemy as sa
from sqlalchemy import event

from alembic_audit import context, values
from alembic_audit.errors import ContextError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import (
        AsyncConnection,
        AsyncEngine,
        AsyncSession,
        async_scoped_session,
        async_sessionmaker,
    )
    from sqlalchemy.orm import Session, scoped_session, sessionmaker

    Sync: TypeAlias = sa.Connection | Session | scoped_session[Any]
    Async: TypeAlias = AsyncConnection | AsyncSession | async_scoped_session[Any]
    Target: TypeAlias = sa.Engine | AsyncEngine | sessionmaker[Any] | async_sessionmaker[Any]

KEY = "alembic_audit"

_START = r"(?:\s|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*"
_CONTROL = re.compile(
    _START
    + r"""(?:(?P<gone>ROLLBACK|ABORT|COMMIT|END|DISCARD|PREPARE\s+TRANSACTION
            |RESET\s+(?:ALL\b|"?audit\b))
        |(?P<begun>BEGIN|START)
        |(?P<first>LOCK|SET\s+(?:LOCAL\s+|SESSION\s+)?TRANSACTION)
        |RELEASE|PREPARE|RESET|SET|SHOW)\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""Statements that nothing is sent before; after those that are *gone*, what was sent may be, too.

A transaction's SET TRANSACTION, and the LOCK TABLE of a REPEATABLE READ one, come *first*.
"""
_END = re.compile(
    _START
    + r"(?:(?:ROLLBACK|ABORT|COMMIT|END)\b(?!.*\b(?:TO|CHAIN|PREPARED)\b)|PREPARE\s+TRANSACTION\b)",
    re.IGNORECASE | re.DOTALL,
)
"""Statements after which psycopg2 and asyncpg, which did not see them, begin no transaction."""

_TOKEN = re.compile(
    r"""--[^\n]*|/\*|(?<!\w)[Ee]'(?:[^'\\]|\\.|'')*'|'[^']*'|"[^"]*"
        |(?<![\w$])(\$(?:[^\W\d]\w*)?\$).*?\1|;""",
    re.VERBOSE | re.DOTALL,
)
"""A semicolon, and what may hold one that ends no statement."""
_COMMENT = re.compile(r"/\*|\*/")
_BODY = re.compile(r"\s*CREATE\b.*\bBEGIN\s+ATOMIC\b(?!\s+END\b)", re.IGNORECASE | re.DOTALL)
_BODY_END = re.compile(r"\s*END\b", re.IGNORECASE)

_READ = re.compile(r"\s*(?:SELECT|WITH|TABLE|VALUES|FETCH|SAVEPOINT)\b", re.IGNORECASE)
_WRITE = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|INTO)\b|--|/\*|;", re.IGNORECASE)
_NAME = r"[^\x00-#%-/:-@\[-^`{-\x7f]"  # a letter of any script, a digit, _ or $
_CALL = re.compile(rf"(?:(?<!{_NAME})({_NAME}+)|\")\s*\((\s*\*?\s*\))?")
"""What stands before a parenthesis, a name or nothing for a quoted one; `*)` or `)` after it."""
_GRAMMAR = """
    all and any array as between bit case cast char coalesce decimal distinct else except exists
    extract from greatest having in intersect interval lateral least limit not nullif numeric offset
    on or row select some then time timestamp trim union using values varchar when where with
"""
_HARMLESS = frozenset(_GRAMMAR.split())
"""Words that PostgreSQL's grammar lets no function be called by, unless it is quoted.

Of a function that is called by name nobody knows which one it is. An overload for the type of the
arguments, anywhere on the search_path, goes before PostgreSQL's own `lower(text)`.
"""
_HARMLESS_WITHOUT_ARGUMENTS = frozenset({"count", "now"})
"""Without arguments there is no better match than PostgreSQL's own, which is found first."""
_DML = re.compile(
    _START
    + r"""(?:INSERT|UPDATE|DELETE|MERGE|COPY|TRUNCATE|CALL|DO|EXECUTE
        |(?:WITH|EXPLAIN\b.*\bANALY[SZ]E)\b.*\b(?:INSERT|UPDATE|DELETE|MERGE|EXECUTE))\b""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


@overload
def set_session_vars(
    connectable: "Sync", metadata: sa.MetaData | None = None, /, **values: Any
) -> None: ...


@overload
def set_session_vars(
    connectable: "Async", metadata: sa.MetaData | None = None, /, **values: Any
) -> Awaitable[None]: ...


def set_session_vars(
    connectable: Any, metadata: sa.MetaData | None = None, /, **given: Any
) -> Awaitable[None] | None:
    """Set session settings until the transaction of a session or connection ends.

    In each transaction, once::

        set_session_vars(session, username="ann")
        await set_session_vars(async_session, Base.metadata, username="ann")

    On an enrolled engine they hold over contexts that began before, and over savepoints that are
    rolled back; a context that begins or ends later and names the same setting takes over.

    Args:
        connectable: A Connection, Session, scoped_session, or the asynchronous one of these. It
            begins its transaction if it has none.
        metadata: Declarations to check names and values against; those that the engine was enrolled
            with, if left out.
        **given: Settings, without ``audit.``, and their values: str, int, float, bool, UUID, Enum,
            date, time, datetime, timedelta, Decimal, bytes, or what ``json.dumps`` takes. None, and
            the empty text, clear.

    Returns:
        None; something to await for what is asynchronous.

    Raises:
        SettingError: A name or value is wrong; nothing was sent.
        ContextError: It is an Engine, or in AUTOCOMMIT: the values would be gone at once.
    """
    wanted = values.checked(given)
    if hasattr(connectable, "sync_engine") and not hasattr(connectable, "sync_connection"):
        connectable = connectable.sync_engine
    if isinstance(connectable, sa.Engine):
        raise ContextError(
            "set_session_vars of an Engine: it would set them in a transaction of its own, and "
            "they would be gone; give it the Connection or Session that writes, or use "
            "audit_context() and instrument() the engine"
        )
    if isinstance(connectable, sa.Connection):
        _set(connectable, metadata, wanted)
        return None
    if hasattr(connectable, "registry") and callable(connectable):  # scoped, of either kind
        connectable = connectable()
    if hasattr(connectable, "run_sync"):
        run: Awaitable[None] = connectable.run_sync(_set_any, metadata, wanted)
        return run
    _set_any(connectable, metadata, wanted)
    return None


def _set_any(connectable: Any, metadata: sa.MetaData | None, wanted: Mapping[str, Any]) -> None:
    if not isinstance(connectable, sa.Connection):
        from sqlalchemy.orm import Session

        if not isinstance(connectable, Session):
            raise ContextError(
                f"set_session_vars of {connectable!r}: give it a Connection, a Session, a "
                "scoped_session, or the asynchronous one of these"
            )
        try:
            connectable = connectable.connection()
        except sa.exc.UnboundExecutionError as error:
            raise ContextError(
                "set_session_vars of a Session whose engine depends on the mapper: give it "
                "session.connection(bind_arguments={'mapper': ...})"
            ) from error
    _set(connectable, metadata, wanted)


def _set(
    connection: sa.Connection, metadata: sa.MetaData | None, wanted: Mapping[str, Any]
) -> None:
    if connection.dialect.name != "postgresql":
        raise ContextError(
            f"set_session_vars of a connection to {connection.dialect.name}: there are session "
            "settings in PostgreSQL only"
        )
    enrolled = _enrolment(connection)
    texts = values.texts(wanted, enrolled.metadata if metadata is None else [metadata])
    if _is_over(connection, _known(connection)):
        raise ContextError(
            f"set_session_vars of {', '.join(sorted(texts))} in AUTOCOMMIT, or after COMMIT as "
            "text: each statement is a transaction of its own, and the values would be gone before "
            "the next one; use another isolation_level and connection.commit()"
        )
    if not texts:
        return
    _send(connection, texts)
    # Read after sending, which began the transaction if there was none.
    sent = _sent(connection)
    sent.server.update(texts)
    sent.by_hand.update(texts)
    sent.over.update(texts)


@dataclasses.dataclass(frozen=True)
class _Enrolment:
    """How an engine was enrolled; kept in its execution options, which connections inherit."""

    lazy: bool = False
    metadata: tuple[sa.MetaData, ...] = ()


@dataclasses.dataclass
class _Sent:
    """What one transaction was sent. It lives in ``Connection.info``, which outlives transactions.

    Attributes:
        transaction: The transaction; another one starts from nothing.
        texts: The texts of the context that was last sent.
        context: The values of that context; compared by identity.
        by_hand: What set_session_vars set.
        over: The names of by_hand that hold over the context.
        server: What the server holds.
        stale: It may hold that no longer.
        over_by_text: The transaction was ended by a statement, unknown to SQLAlchemy.
    """

    transaction: "weakref.ref[Any]"
    context: Mapping[str, Any] = dataclasses.field(default_factory=lambda: context.NOTHING)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    by_hand: dict[str, str] = dataclasses.field(default_factory=dict)
    over: set[str] = dataclasses.field(default_factory=set)
    server: dict[str, str] = dataclasses.field(default_factory=dict)
    stale: bool = False
    over_by_text: bool = False

    def wants(self, texts: dict[str, str]) -> dict[str, str]:
        """Return what to send so that the server holds the texts of a context."""
        changed = {
            name
            for name in (*self.texts, *texts)
            if name not in self.texts or self.texts[name] != texts.get(name)
        }
        self.over -= changed
        self.texts = texts
        by_hand = {name: self.by_hand[name] for name in self.over}
        target = {**dict.fromkeys(self.server, ""), **self.by_hand, **texts, **by_hand}
        return {n: t for n, t in target.items() if self.stale or self.server.get(n) != t}


_PLAIN = {"stream_results": False, "yield_per": None}
"""A server-side cursor, if the connection asks for one, would not run before its first fetch."""


def _known(connection: sa.Connection) -> _Sent | None:
    """Return what the present transaction was sent, if anything."""
    transaction = connection.get_transaction()
    sent: _Sent | None = connection.info.get(KEY)
    if transaction is None or sent is None or sent.transaction() is not transaction:
        return None
    return sent


def _sent(connection: sa.Connection) -> _Sent:
    sent = _known(connection)
    if sent is None:
        sent = connection.info[KEY] = _Sent(weakref.ref(connection.get_transaction()))
    return sent


def _enrolment(connection: sa.Connection) -> _Enrolment:
    enrolled: _Enrolment = connection.get_execution_options().get(KEY, _Enrolment())
    return enrolled


def _send(connection: sa.Connection, texts: Mapping[str, str]) -> None:
    """Send settings by bound parameters, in one statement.

    ``exec_driver_sql`` is re-entrant inside ``before_cursor_execute``: it uses a cursor of its own,
    where the one of the event may be a server-side cursor, which takes one statement only, or have
    had its input sizes set. A raw cursor was 20 to 45 microseconds faster of 120 to 190, but is in
    no log and raises the driver's errors; ``select(func.set_config(...))`` takes 370 to 440.
    """
    numbered = connection.dialect.paramstyle == "numeric_dollar"  # asyncpg
    calls = ", ".join(
        f"pg_catalog.set_config(${at}, ${at + 1}, true)"
        if numbered
        else "pg_catalog.set_config(%s, %s, true)"
        for at in range(1, 2 * len(texts), 2)
    )
    parameters = [part for name, text in texts.items() for part in (f"audit.{name}", text)]
    connection.exec_driver_sql(f"SELECT {calls}", tuple(parameters), execution_options=_PLAIN)


def instrument(
    target: "Target",
    *,
    lazy: bool = False,
    metadata: sa.MetaData | Iterable[sa.MetaData] = (),
) -> None:
    """Enroll an engine: what audit_context() says is sent in each of its transactions.

    It is sent before the first statement of a transaction, and again before the next one whenever
    the context is another, or a savepoint was rolled back. A transaction in no context sends
    nothing. Enrolling again replaces how; a database that is not PostgreSQL is sent nothing.

    Where each statement is a transaction, as in AUTOCOMMIT, a write inside a context is refused, as
    is a text of several statements that ends the transaction, or takes the values back, before it
    writes. A SELECT in AUTOCOMMIT goes on: a function that it calls may write without values.

    A statement that reaches the driver by another way than SQLAlchemy's Connection.execute(), such
    as COPY by a raw cursor, is not seen. Call set_session_vars(connection, ...) before it, or
    execute any write first.

    Args:
        target: An Engine, AsyncEngine, or a sessionmaker, which stands for its engines.
        lazy: Wait for the first statement that may write: everything but a read whose text calls
            no function by its name. A function that a view, operator, cast or policy calls is not
            in the text: leave `lazy` off where one of those writes to an audited table.
        metadata: Declarations to check names and values against before they are sent.

    Raises:
        ContextError: The sessionmaker has no engine yet.
    """
    declared = (metadata,) if isinstance(metadata, sa.MetaData) else tuple(metadata)
    for engine in _engines(target):
        if engine.dialect.name != "postgresql":
            continue
        engine.update_execution_options(**{KEY: _Enrolment(lazy, declared)})
        if not event.contains(engine, "before_cursor_execute", _before):
            event.listen(engine, "before_cursor_execute", _before)


def _engines(target: Any) -> set[sa.Engine]:
    target = getattr(target, "session_factory", target)  # of a scoped_session
    options = getattr(target, "kw", None)  # of a sessionmaker
    if options is None:
        binds = [target]
    else:
        binds = [options.get("bind"), *(options.get("binds") or {}).values()]
    found = {getattr(bind, "sync_engine", bind) for bind in binds if bind is not None}
    found = {one.engine if isinstance(one, sa.Connection) else one for one in found}
    if not found or not all(isinstance(one, sa.Engine) for one in found):
        raise ContextError(
            f"{target!r} is no engine, and no sessionmaker that has one; "
            "instrument() the Engine or AsyncEngine that its sessions will use"
        )
    return found


def _before(
    connection: sa.Connection,
    cursor: Any,
    statement: str,
    parameters: Any,
    execution: Any,
    executemany: bool,
) -> None:
    """``before_cursor_execute``: the one event that every way to execute goes through.

    ROLLBACK TO SAVEPOINT does too, so that there is no other event to listen for.
    """
    if connection.get_transaction() is None:  # SQLAlchemy itself, when it first connects
        return
    now = context.current()
    sent = _known(connection)
    parts = _statements(statement) if ";" in statement or "/*" in statement else [statement]
    if len(parts) > 1:
        _before_several(connection, parts, now, sent)
        return
    if control := _CONTROL.match("".join(parts)):
        _note(connection, "".join(parts), control)
        return
    if sent.context is now and not sent.stale if sent is not None else not now:
        return
    if _is_over(connection, sent):
        _refuse_write(parts, now)
        return
    enrolled = _enrolment(connection)
    if enrolled.lazy and _only_reads(statement):
        return
    _bring(connection, _sent(connection), values.texts(now, enrolled.metadata), now)


def _before_several(
    connection: sa.Connection, parts: list[str], now: Mapping[str, Any], sent: _Sent | None
) -> None:
    """Do for a text of several statements what `_before` does for one, or refuse the text.

    Nothing can be sent between them, so the values go before the first one.
    """
    controls = [_CONTROL.match(part) for part in parts]
    if _is_over(connection, sent):
        _refuse_write(parts, now)
    elif now or (sent is not None and sent.server):
        gone = next((at for at, found in enumerate(controls) if found and found["gone"]), None)
        if gone is not None and any(map(_may_write, parts[gone + 1 :])):
            raise ContextError(
                f"{_brief(parts[gone])} comes before a write in one text, and would take the "
                "values along that this transaction was given; execute the statements one by one"
            )
        if not all(controls) and (sent is None or sent.context is not now or sent.stale):
            leading = itertools.takewhile(bool, controls)
            if first := next((found for found in leading if found and found["first"]), None):
                raise ContextError(
                    f"{_brief(first.string)} must come first in its transaction, and the values of "
                    f"this audit_context, {', '.join(sorted(now))}, before the statements that "
                    "follow it in the same text; execute the statements one by one"
                )
            texts = values.texts(now, _enrolment(connection).metadata)
            _bring(connection, _sent(connection), texts, now)
    for part, control in zip(parts, controls, strict=True):
        if control:
            _note(connection, part, control)


def _statements(text: str) -> list[str]:
    """Split a text at the semicolons that end statements; comments and literals are left out."""
    clauses = [""]
    at = 0
    while token := _TOKEN.search(text, at):
        clauses[-1] += text[at : token.start()]
        at = token.end()
        if token[0] == "/*":
            depth = 1  # comments nest
            while depth and (mark := _COMMENT.search(text, at)):
                depth += 1 if mark[0] == "/*" else -1
                at = mark.end()
        if token[0] == ";":
            clauses.append("")
        else:
            kinds = {'"': token[0], "-": " ", "/": " "}
            clauses[-1] += kinds.get(token[0][0], "''")
    clauses[-1] += text[at:]
    statements: list[str] = []
    is_body = False
    for clause in clauses:
        if is_body:  # of a function: CREATE FUNCTION ... BEGIN ATOMIC ...; ...; END
            is_body = _BODY_END.match(clause) is None
        elif clause.strip():
            statements.append(clause.strip())
            is_body = _BODY.match(clause) is not None
    return statements


def _brief(statement: str) -> str:
    words = " ".join(statement.split())
    return words if len(words) <= 40 else f"{words[:40]}..."


def _note(connection: sa.Connection, statement: str, control: "re.Match[str]") -> None:
    """Note what a statement that controls the transaction does to what was sent."""
    if control["gone"] or control["begun"]:
        sent = _sent(connection)
        sent.stale = True
        sent.over_by_text = _END.match(statement) is not None


def _is_over(connection: sa.Connection, sent: _Sent | None) -> bool:
    """Whether each statement is a transaction of its own, though SQLAlchemy may think of one."""
    driver: Any = connection.connection.dbapi_connection
    return bool(driver.autocommit) or (sent is not None and sent.over_by_text)


def _bring(
    connection: sa.Connection, sent: _Sent, texts: dict[str, str], now: Mapping[str, Any]
) -> None:
    """Send what the server lacks."""
    missing = sent.wants(texts)
    # Written down first: what is sent comes through _before as well.
    sent.context, sent.stale = now, False
    sent.server.update(missing)
    if missing:
        try:
            _send(connection, missing)
        except BaseException:
            sent.stale = True
            raise


def _refuse_write(parts: Iterable[str], now: Mapping[str, Any]) -> None:
    if now and any(map(_DML.match, parts)):
        raise ContextError(
            f"a write in AUTOCOMMIT, or after COMMIT as text, inside an audit_context of "
            f"{', '.join(sorted(now))}: the values would be gone before it; use another "
            "isolation_level and connection.commit(), or leave the context"
        )


def _may_write(statement: str) -> bool:
    is_read = _READ.match(statement) is not None
    return _DML.match(statement) is not None or (is_read and not _only_reads(statement))


def _only_reads(statement: str) -> bool:
    """Whether the text of a statement shows a read that calls no function by its name."""
    return (
        _READ.match(statement) is not None
        and _WRITE.search(statement) is None
        and all(
            name.lower() in (_HARMLESS_WITHOUT_ARGUMENTS | _HARMLESS if closed else _HARMLESS)
            for name, closed in _CALL.findall(statement)
        )
    )
