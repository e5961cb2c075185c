"""Entities of the past: instances of a mapped class that belong to no session, and never will."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, SupportsIndex

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import (
    Bundle,
    LoaderCallableStatus,
    Mapper,
    ORMExecuteState,
    PassiveFlag,
    Session,
    aliased,
    make_transient_to_detached,
)
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.sql import visitors

from alembic_audit.errors import ReadingError
from alembic_audit.reading.trail import Trail, trail_of

_rows: "weakref.WeakSet[sa.FromClause]" = weakref.WeakSet()
"""What the aliases of this module select from."""

_is_past: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()
"""Selectables that were looked through for such rows."""

_bundles: "weakref.WeakKeyDictionary[Any, _Entities]" = weakref.WeakKeyDictionary()
"""What is selected in place of an alias."""


class PastEntityError(ReadingError, DetachedInstanceError):
    """An entity of the past was used as one of today; nothing was changed."""

    code = ""  # no page of SQLAlchemy is about it

    def __init__(self, message: str) -> None:
        DetachedInstanceError.__init__(self, message)


def past_alias(trail: Trail, rows: sa.Subquery) -> Any:
    """An alias of the class of a trail. Sessions load it as entities of the past.

    Args:
        trail: Its mapper is the class.
        rows: What the alias selects from, one row for each key.

    Raises:
        ReadingError: The class has more than one table.
    """
    mapper = trail.mapper
    assert isinstance(mapper, Mapper)
    if mapper.persist_selectable is not trail.table:
        raise ReadingError(
            f"{mapper.class_.__name__} is mapped to more than one table; ask each Table by itself"
        )
    if not event.contains(Session, "do_orm_execute", _load_as_past):
        event.listen(Session, "do_orm_execute", _load_as_past)
    _rows.add(rows)
    return aliased(mapper.class_, rows, adapt_on_names=True)


def _load_as_past(execution: ORMExecuteState) -> None:
    """Select entities of the past in place of the aliases that a statement selects."""
    statement: Any = execution.statement
    if not _rows or not execution.is_select:
        return
    if isinstance(statement, sa.Select):
        _see_options(statement)
        columns = [_entities_of(column) for column in statement._raw_columns]
        if any(column is not None for column in columns):
            execution.statement = statement.with_only_columns(
                *(
                    given if ours is None else ours
                    for given, ours in zip(statement._raw_columns, columns, strict=True)
                )
            )
    elif _is_of_past(getattr(statement, "element", None)):  # select().from_statement()
        raise PastEntityError(
            "from_statement() would load rows of the past as rows of today; execute the statement "
            "that as_of() returned"
        )


def _entities_of(column: Any) -> "_Entities | None":
    """What to select for an alias of rows of the past; None for anything else."""
    entity = column._annotations.get("parententity")
    if not column.is_selectable or entity is None or not entity.is_aliased_class:
        return None
    if not _is_of_past(entity.selectable):
        return None
    if entity not in _bundles:
        _bundles[entity] = _entities(entity)
    return _bundles[entity]


def _see_options(statement: "sa.Select[Any]") -> None:
    """Refuse contains_eager() of rows of the past: they would be loaded as those of today."""
    for option in statement._with_options:
        for element in getattr(option, "context", ()):
            for entity in getattr(getattr(element, "path", None), "path", ()):
                if getattr(entity, "is_aliased_class", False) and _is_of_past(entity.selectable):
                    raise PastEntityError(
                        f"{entity.name} is selected from the past: an option of the statement "
                        "would load it, or what belongs to it, as of today. Select it as an "
                        "entity of its own, select(..., past(...)), without options"
                    )


def _is_of_past(selectable: Any) -> bool:
    """Whether rows of the past are selected from something."""
    if not isinstance(selectable, (sa.SelectBase, sa.Subquery, sa.CTE, sa.Alias)):
        return False
    if selectable not in _is_past:
        _is_past[selectable] = any(one in _rows for one in visitors.iterate(selectable))
    return _is_past[selectable]


class _Entities(Bundle[Any]):
    """The columns of a class, made an entity for each row.

    A statement is cached by the expressions alone: nothing else may tell one of these from another.

    Attributes:
        target: The mapper of the class.
        key: Where the values of the primary key are.
        discriminator: Where that of the polymorphic identity is.
        places: Of each class that rows may be of: attributes, and where their values are.
        untold: Of each: attributes without a value, and why.
        are_unique: Whether there is one row for each key.
    """

    single_entity = True
    target: Mapper[Any]
    key: list[int]
    discriminator: int | None
    places: dict[Mapper[Any], dict[str, int]]
    untold: dict[Mapper[Any], dict[str, "_Untold"]]
    are_unique: bool

    def create_row_processor(
        self, query: Any, procs: Sequence[Callable[[Any], Any]], labels: Sequence[str]
    ) -> Callable[[Any], Any]:
        """What makes an entity of a row; a row that comes twice is the same entity."""
        seen: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()

        def entity(row: Any) -> Any:
            values = [value_of(row) for value_of in procs]
            key = tuple(values[place] for place in self.key)
            if all(value is None for value in key):  # of an outer join
                return None
            if (found := seen.get(key) if self.are_unique else None) is not None:
                return found
            mapper = self.target
            if self.discriminator is not None:
                mapper = self.target.polymorphic_map.get(values[self.discriminator], mapper)
            places = self.places.get(mapper, self.places[self.target])
            loaded = {name: values[place] for name, place in places.items()}
            untold = self.untold.get(mapper, self.untold[self.target])
            made = _entity(mapper, key, loaded, untold)
            if self.are_unique:
                seen[key] = made
            return made

        return entity


def _entities(alias: Any) -> _Entities:
    """What selects the rows of an alias as entities."""
    mapper, source = alias.mapper, alias.selectable
    trail = trail_of(mapper.class_)
    expressions: list[Any] = []
    places: dict[Mapper[Any], dict[str, int]] = {}

    def place(expression: Any) -> int:
        expressions.append(expression)
        return len(expressions) - 1

    for one in mapper.self_and_descendants:
        places[one] = {}
        for attribute in one.column_attrs:
            name = attribute.key
            if one is not mapper and mapper.has_property(name):
                if name in places[mapper]:
                    places[one][name] = places[mapper][name]
            elif _is_told(trail, attribute, source):
                column = _column_of(trail, attribute)
                is_own = one is mapper
                if is_own or column is not None:
                    shown = getattr(alias.entity, name) if is_own else source.c[column.name]
                    places[one][name] = place(shown)
    key = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    made = _Entities(mapper.class_.__name__, *expressions)
    made.target, made.places = mapper, places
    made.key = [places[mapper][name] for name in key]
    made.discriminator = None
    if mapper.polymorphic_on is not None:
        known = mapper.get_property_by_column(mapper.polymorphic_on).key
        made.discriminator = places[mapper].get(known)
    made.untold = {one: dict(_untold(trail, one, found)) for one, found in places.items()}
    made.are_unique = source in _rows
    return made


def _column_of(trail: Trail, attribute: Any) -> Any:
    """The column of the audited table that an attribute is mapped to."""
    found = (one for one in attribute.columns if getattr(one, "table", None) is trail.table)
    return next(found, None)


def _is_told(trail: Trail, attribute: Any, source: Any) -> bool:
    """Whether an attribute is a column that the trail stores, or computed from such alone."""
    column = _column_of(trail, attribute)
    parts = [column] if column is not None else list(visitors.iterate(attribute.columns[0]))
    return not any(isinstance(one, sa.SelectBase) for one in parts) and all(
        one.table is trail.table and one.name in trail.spec.columns and one.name in source.c
        for one in parts
        if isinstance(one, sa.Column)
    )


def _untold(
    trail: Trail, mapper: Mapper[Any], told: Mapping[str, int]
) -> Iterator[tuple[str, "_Untold"]]:
    """Yield the attributes that have no value in the past, each with the reason."""
    class_ = mapper.class_.__name__
    for relationship in mapper.relationships:
        target = relationship.mapper.class_.__name__
        yield (
            relationship.key,
            _Untold(
                f"{class_}.{relationship.key} of an entity of the past is not loaded: its rows "
                f"would be those of today. Select as_of({target}, ...), or join past({target}, ...)"
            ),
        )
    for attribute in mapper.column_attrs:
        if attribute.key in told:
            continue
        named = f"{class_}.{attribute.key} has no value in the past"
        column = _column_of(trail, attribute)
        first = attribute.columns[0]
        if column is None and isinstance(first, sa.Column):
            why = f"it is of table {first.table.fullname!r}; select as_of() of that Table"
        elif column is None:
            why = "it is computed from other tables, or from what is not recorded"
        elif column.name in trail.spec.hash_columns:
            why = f"the trail of {trail.table.fullname!r} stores a hash of it; select history()"
        elif column.name not in trail.spec.columns:
            why = (
                f"the trail of {trail.table.fullname!r} does not record it. Take it out of the "
                "columns that are left out, to record it from now on"
            )
        else:
            why = "it was not selected"
        yield attribute.key, _Untold(f"{named}: {why}")


def _entity(
    mapper: Mapper[Any], key: tuple[Any, ...], values: dict[str, Any], untold: dict[str, "_Untold"]
) -> Any:
    """An instance of a class with values, detached for ever."""
    instance = mapper.class_manager.new_instance()
    state = sa.inspect(instance)
    state.dict.update(values)
    state.identity_token = _Token(mapper.class_.__name__, key)
    make_transient_to_detached(instance)
    # What is missing is refused by name, with what to do.
    state.expired_attributes.clear()
    state.callables = dict(untold)
    # Reconstructors, and types that track their changes, wait for it; there is no QueryContext.
    mapper.class_manager.dispatch.load(state, None)
    instance.__dict__ = _Values(instance.__dict__, mapper.attrs.keys())
    return instance


class _Token:
    """The identity token of an entity of the past.

    Whatever would bring the entity into a session, or refresh it, or make it a row of today, looks
    its identity up in the session's identity map. There it has no hash.

    Args:
        name: That of the class.
        key: The primary key.
    """

    __slots__ = ("key", "name")

    def __init__(self, name: str, key: tuple[Any, ...]) -> None:
        self.name = name
        self.key = key

    def __repr__(self) -> str:
        return "<past>"

    def __hash__(self) -> NoReturn:
        shown = repr(self.key[0]) if len(self.key) == 1 else repr(self.key)
        raise PastEntityError(
            f"{self.name} {shown} is an entity of the past, which no session adds, merges, "
            f"refreshes or deletes. Take today's row, session.get({self.name}, {shown}), to change "
            f"that one, or restore(session, {self.name}, {shown}, as_of=...) to put it back"
        )


class _Untold:
    """What raises where an attribute without a value is read."""

    __slots__ = ("message",)

    def __init__(self, message: str) -> None:
        self.message = message

    def __call__(self, state: Any, passive: PassiveFlag) -> Any:
        if not passive & PassiveFlag.SQL_OK:
            return LoaderCallableStatus.PASSIVE_NO_RESULT
        raise PastEntityError(self.message)


class _Values(dict[str, Any]):
    """The attributes of an entity of the past, of which those that are mapped stay as they are."""

    __slots__ = ("mapped",)

    def __init__(self, values: dict[str, Any], mapped: Sequence[str]) -> None:
        super().__init__(values)
        self.mapped = frozenset(mapped)

    def __setitem__(self, name: str, value: Any) -> None:
        self._see(name)
        super().__setitem__(name, value)

    def pop(self, name: str, *default: Any) -> Any:
        """Take out an attribute that is not mapped."""
        self._see(name)
        return super().pop(name, *default)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def _see(self, name: str) -> None:
        if name in self.mapped:
            raise PastEntityError(
                f"{name} of an entity of the past cannot be set: no session would write it. Take "
                "today's row by session.get(), or put this one back by restore()"
            )
