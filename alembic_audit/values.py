"""Values of session settings: Python to the text that PostgreSQL casts to the declared type."""

import difflib
import enum
import ipaddress
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from alembic_audit import naming, options
from alembic_audit.errors import SettingError, SpecError

Declared: TypeAlias = Mapping[str, tuple[tuple[str, TypeEngine[Any]], ...]]
"""Name of a setting to the tables that declare it, and the type each gives it."""

DECLARED_KEY = "audit.settings"
_PG = postgresql.dialect()  # type: ignore[no-untyped-call]
_INTEGERS = (  # the narrower ones are subclasses of sa.Integer
    (sa.SmallInteger, 15),
    (sa.BigInteger, 63),
    (sa.Integer, 31),
)


class _Wrong(Exception):
    """A value does not fit; says what to write."""


def declared(*metadata: sa.MetaData) -> Declared:
    """Return the settings that the audited tables of one or more MetaData declare.

    It is called for each transaction, so each MetaData keeps the answer until tables are added.

    Raises:
        DeclarationError: A declaration is wrong.
    """
    found: dict[str, tuple[tuple[str, TypeEngine[Any]], ...]] = {}
    for one in metadata:
        kept = one.info.get(DECLARED_KEY)
        if kept is None or kept[0] != len(one.tables):
            kept = one.info[DECLARED_KEY] = (len(one.tables), _declared(one))
        for name, types in kept[1].items():
            found[name] = found.get(name, ()) + types
    return found


def _declared(metadata: sa.MetaData) -> Declared:
    found: dict[str, tuple[tuple[str, TypeEngine[Any]], ...]] = {}
    for table in metadata.tables.values():
        wanted = options.read(table)
        for column in wanted.session_settings if wanted else ():
            name = _name(column.name)
            found[name] = (*found.get(name, ()), (table.fullname, column.type))
    return found


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return *values* by lower-cased name, looked at as far as no declaration is needed.

    Raises:
        SettingError: A name cannot be one of a setting, or a text cannot be sent at all.
    """
    found: dict[str, Any] = {}
    for given, value in values.items():
        name = _name(given)
        if name in found:
            raise SettingError(f"session setting {name!r} is given twice; names are lower-cased")
        if isinstance(value, str):
            try:
                _sendable(value)
            except _Wrong as error:
                raise SettingError(f"session setting {name!r}: {error}") from None
        found[name] = value
    return found


def _name(given: str) -> str:
    try:
        return naming.check_setting(given)
    except SpecError as error:
        raise SettingError(str(error)) from None


def texts(values: Mapping[str, Any], metadata: Iterable[sa.MetaData] = ()) -> dict[str, str]:
    """Return what to send: name of the setting, without ``audit.``, and text; None is ``''``.

    Args:
        values: As :func:`checked` returns them.
        metadata: The declarations that say which settings there are, and their types. Where there
            are none, any name goes, and a value is written by its Python type.

    Raises:
        SettingError: No audited table declares the setting, or the value does not fit its type.
    """
    given = tuple(metadata)
    known = declared(*given)
    if given:
        _check_names(values, known)
    found = {}
    for name, value in values.items():
        found[name] = "" if value is None else one_text(name, value, known.get(name, ()))
    return found


def check_declared(names: Iterable[str], metadata: Iterable[sa.MetaData]) -> None:
    """See that audited tables declare settings, where there are any that do.

    Raises:
        SettingError: No table declares one of them.
    """
    if known := declared(*metadata):
        _check_names(names, known)


def _check_names(names: Iterable[str], known: Declared) -> None:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"declared are {sorted(known)}"
            raise SettingError(f"no audited table declares the session setting {name!r}: {hint}")


def one_text(name: str, value: Any, types: Iterable[tuple[str, TypeEngine[Any]]]) -> str:
    """Return the text that fits the type which each table gives a setting.

    Raises:
        SettingError: The value does not fit.
    """
    found: dict[str, str] = {}
    where = f"session setting {name!r}"
    try:
        for table, kind in types:
            where = f"session setting {name!r}, which table {table!r} declares as {kind!r}"
            found[_sendable(_typed(value, kind))] = table
        if not found:
            return _sendable(_plain(value))
    except _Wrong as error:
        raise SettingError(f"{where}: {error}") from None
    if len(found) > 1:
        (one, first), (other, second), *_ = found.items()
        raise SettingError(
            f"session setting {name!r} cannot be one text for all tables: {first!r} wants "
            f"{_short(one)}, {second!r} wants {_short(other)}; declare it with one type"
        )
    return next(iter(found))


def _sendable(text: str) -> str:
    if "\x00" in text:
        raise _Wrong("it holds NUL, which PostgreSQL cannot store in a text; remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _Wrong(
            f"it cannot be written in UTF-8 ({error}); remove the lone surrogate"
        ) from None
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _want(what: str, value: Any) -> _Wrong:
    return _Wrong(f"write {what}, found {_short(value)} of type {type(value).__name__}")


def _plain(value: Any) -> str:
    """Return the text of a value by its Python type alone."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        # Every field has a sign: IntervalStyle sql_standard lets a lone one rule all fields.
        return f"{value.days:+} days {value.seconds:+} seconds {value.microseconds:+} microseconds"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"\\x{bytes(value).hex()}"
    if isinstance(value, (int, float, Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        return str(value)
    return _json(value)


def _json(value: Any) -> str:
    if _has_nul(value):
        raise _Wrong("a string in it holds NUL, which PostgreSQL's jsonb cannot store; remove it")
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise _want(
            "a str, int, bool, UUID, Enum, date, datetime, Decimal, or what json.dumps takes", value
        ) from None


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, Mapping):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, (list, tuple)) and any(map(_has_nul, value))


def _typed(value: Any, kind: TypeEngine[Any]) -> str:
    """Return the text of a value whose setting is declared with a type."""
    kind = kind._variant_mapping.get("postgresql", kind)
    if isinstance(kind, sa.types.TypeDecorator) and not isinstance(kind, sa.Interval):
        try:
            bound = kind.process_bind_param(value, _PG)
        except NotImplementedError:
            bound = value
        except Exception as error:
            raise _Wrong(f"{type(kind).__name__} refuses {_short(value)}: {error}") from error
        return "" if bound is None else _typed(bound, kind.load_dialect_impl(_PG))
    if isinstance(kind, postgresql.DOMAIN):
        return _typed(value, kind.data_type)
    if isinstance(kind, sa.Enum):
        return _label(value, kind)
    if isinstance(kind, sa.ARRAY):
        return _array(value, kind.item_type, kind.dimensions)
    if isinstance(value, enum.Enum) and not isinstance(kind, sa.JSON):
        return _typed(value.value, kind)
    for wanted, write in _WRITERS:
        if isinstance(kind, wanted):
            return write(value, kind)
    if isinstance(value, (Mapping, list, tuple)):
        raise _want(f"the text of a {kind!r}", value)
    return _plain(value)


def _label(value: Any, kind: sa.Enum) -> str:
    names = kind.enums
    if kind.enum_class is not None and isinstance(value, kind.enum_class):
        # values_callable may have given the labels: they come in the order of the members.
        members: list[Any] = list(kind.enum_class)
        if len(members) != len(names):  # omit_aliases=False
            members = list(kind.enum_class.__members__.values())
        return str(names[members.index(value)])
    text = value.value if isinstance(value, enum.Enum) else value
    if text not in names:
        raise _want(f"one of {', '.join(map(repr, names))}", value)
    return str(text)


def _array(value: Any, item: TypeEngine[Any], dimensions: int | None) -> str:
    if not isinstance(value, (list, tuple)):
        raise _want("a list", value)
    nested = [part for part in value if isinstance(part, (list, tuple))] if dimensions != 1 else []
    if nested and (len(nested) < len(value) or len({len(part) for part in nested}) > 1):
        raise _want("lists of one length", value)
    if nested:
        inner = (_array(part, item, dimensions and dimensions - 1) for part in nested)
        return "{" + ",".join(inner) + "}"
    return "{" + ",".join("NULL" if part is None else _item(part, item) for part in value) + "}"


def _item(value: Any, kind: TypeEngine[Any]) -> str:
    text = _typed(value, kind).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _text(value: Any, kind: Any) -> str:
    text = _plain(value)
    if kind.length is not None and len(text) > kind.length:
        raise _Wrong(f"write at most {kind.length} characters, found {len(text)}")
    return text


def _boolean(value: Any, kind: Any) -> str:
    if not isinstance(value, bool):
        raise _want("True or False", value)
    return _plain(value)


def _integer(value: Any, kind: Any) -> str:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError
        number = int(value)
    except ValueError:
        raise _want("an int", value) from None
    bits = next(bits for wanted, bits in _INTEGERS if isinstance(kind, wanted))
    if not -(2**bits) <= number < 2**bits:
        raise _want(f"an int of {bits + 1} bits", value)
    return str(number)


def _number(value: Any, kind: Any) -> str:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
            raise InvalidOperation
        number = Decimal(str(value))
    except InvalidOperation:
        raise _want("an int, float or Decimal", value) from None
    if number.is_snan():
        raise _want("a number", value)
    if not isinstance(kind, sa.Float) and kind.precision is not None and number.is_finite():
        digits = kind.precision - (kind.scale or 0)
        if number and number.quantize(Decimal(1).scaleb(-(kind.scale or 0))).adjusted() >= digits:
            raise _want(f"a number of at most {digits} digits before the point", value)
    return str(number)


def _uuid(value: Any, kind: Any) -> str:
    try:
        return str(value if isinstance(value, uuid.UUID) else uuid.UUID(value))
    except (ValueError, TypeError, AttributeError):
        raise _want("a UUID", value) from None


def _datetime(value: Any, kind: Any) -> str:
    zone = "with" if kind.timezone else "without"
    if not isinstance(value, datetime) or (value.utcoffset() is not None) != kind.timezone:
        raise _want(f"a datetime {zone} tzinfo", value)
    return value.isoformat()


def _date(value: Any, kind: Any) -> str:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise _want("a date", value)
    return value.isoformat()


def _time(value: Any, kind: Any) -> str:
    zone = "with" if kind.timezone else "without"
    if not isinstance(value, time) or (value.utcoffset() is not None) != kind.timezone:
        raise _want(f"a time {zone} tzinfo", value)
    return value.isoformat()


def _interval(value: Any, kind: Any) -> str:
    if not isinstance(value, timedelta):
        raise _want("a timedelta", value)
    return _plain(value)


def _bytes(value: Any, kind: Any) -> str:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise _want("bytes", value)
    return _plain(value)


def _json_typed(value: Any, kind: Any) -> str:
    return _json(value.value if isinstance(value, enum.Enum) else value)


def _address(value: Any, kind: Any) -> str:
    try:
        return str(ipaddress.ip_interface(value))
    except ValueError:
        raise _want("an IP address", value) from None


_WRITERS: tuple[tuple[Any, Callable[[Any, Any], str]], ...] = (
    (sa.JSON, _json_typed),
    (sa.String, _text),
    (sa.Boolean, _boolean),
    (sa.Integer, _integer),
    (sa.Numeric, _number),
    (sa.Float, _number),
    (sa.Uuid, _uuid),
    (sa.DateTime, _datetime),
    (sa.Date, _date),
    (sa.Time, _time),
    (sa.Interval, _interval),
    (postgresql.INTERVAL, _interval),
    (sa.LargeBinary, _bytes),
    (postgresql.INET, _address),
    (sa.types.NullType, lambda value, kind: _plain(value)),
)
