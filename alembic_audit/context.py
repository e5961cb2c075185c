"""audit_context: who is at work, and why, for everything that a block or a function does."""

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import _GeneratorContextManagerBase, contextmanager
from contextvars import ContextVar
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import sqlalchemy as sa

from alembic_audit import values as _values
from alembic_audit.errors import ContextError

_P = ParamSpec("_P")
_R = TypeVar("_R")

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""The values where no context is active."""


class _Frame(NamedTuple):
    """One entry of a ``with`` block; the way back is the frame outside it.

    A Token of contextvars would have to be kept in the audit_context, which several tasks and
    threads may have entered at a time.
    """

    entered: "audit_context"
    values: Mapping[str, Any]
    outside: "_Frame | None"


_frame: ContextVar[_Frame | None] = ContextVar("alembic_audit", default=None)


@contextmanager
def outside() -> Iterator[None]:
    """Leave every context for a while: what sends its own values needs none."""
    token = _frame.set(None)
    try:
        yield
    finally:
        _frame.reset(token)


def current() -> Mapping[str, Any]:
    """Return the values of the active contexts; the same object until one begins or ends."""
    frame = _active()
    return NOTHING if frame is None else frame.values


def _active() -> _Frame | None:
    frame = _frame.get()
    while frame is not None and frame.entered.is_over:
        frame = frame.outside
    return frame


class audit_context:
    """Give session settings values for all that happens inside, on every enrolled engine.

    A context manager (``with`` and ``async with``) and a decorator of functions, coroutine
    functions, generators and asynchronous generators. Contexts nest: what an inner one does not
    name stays as it is outside, and ``None`` clears. A context belongs to the task or thread that
    enters it; tasks started inside, and threads by ``asyncio.to_thread``, take it along, other
    threads by ``contextvars.copy_context().run``. One object can be entered many times::

        with audit_context(username="ann", reason="ticket 7"):
            session.commit()

    Args:
        metadata: Declarations to check names and values against at once. Without, an engine does
            that which was enrolled with some, before it sends.
        **values: Settings, without ``audit.``, and their values.

    Raises:
        SettingError: A name or value is wrong.
    """

    is_over = False
    """Over in every task and thread that entered it, also where it cannot be left from here."""

    def __init__(self, metadata: sa.MetaData | None = None, /, **values: Any) -> None:
        self._values = _values.checked(values)
        if metadata is not None:
            _values.texts(self._values, [metadata])

    def __enter__(self) -> None:
        merged = MappingProxyType({**current(), **self._values})
        _frame.set(_Frame(self, merged, _active()))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        frame = _frame.get()
        if frame is None or frame.entered is not self:
            raise ContextError(
                "an audit_context ends where it is not the innermost one: it began in another "
                "task or thread, whose changes it applied to, or an inner one has not ended; "
                "enter and leave it in one task (a dependency of FastAPI: async def)"
            )
        _frame.set(frame.outside)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Let *function* run in this context.

        A generator, coroutine or asynchronous generator that it returns runs in the context too,
        and so does a callable object whose ``__call__`` is one. Anything else that works later,
        such as a context manager, an iterator or a future, works outside.

        Raises:
            TypeError: It is a class, or nothing that can be called.
        """
        return cast("Callable[_P, _R]", self._decorated(function))

    def _decorated(self, function: Any) -> Any:
        if isinstance(function, (classmethod, staticmethod)):
            return type(function)(self(function.__func__))
        if inspect.isclass(function) or not callable(function):
            raise TypeError(
                f"audit_context cannot decorate {function!r}: decorate the function or method that "
                "works, or enter the context by `with`"
            )
        # What says of a callable object what a call gives is its class.
        called = function
        if not (inspect.isroutine(function) or isinstance(function, functools.partial)):
            called = type(function).__call__
        if inspect.isasyncgenfunction(called):
            made: Any = self._async_generator(function)
        elif inspect.isgeneratorfunction(called):
            made = self._generator(function)
        elif inspect.iscoroutinefunction(called):

            async def made(*args: Any, **kwargs: Any) -> Any:
                with self:
                    result = await function(*args, **kwargs)
                return self._later(result, function)

        else:

            def made(*args: Any, **kwargs: Any) -> Any:
                with self:
                    result = function(*args, **kwargs)
                return self._later(result, function)

        return functools.wraps(function)(made)

    def _later(self, result: Any, function: Any) -> Any:
        """Let what a function returned, and what works only later, work in this context."""
        if isinstance(result, _GeneratorContextManagerBase):
            raise ContextError(
                f"{function!r} returns a context manager, which would work outside the "
                "audit_context around the function: write @audit_context below @contextmanager, or "
                "enter it inside the function, around the `yield` where the caller works"
            )
        if isinstance(result, AsyncGenerator):
            return self._async_generator(lambda: result)()
        if isinstance(result, Generator):
            return self._generator(lambda: result)()
        # Some clients return a coroutine that can be entered as well.
        if isinstance(result, Coroutine) and not hasattr(result, "__aenter__"):
            return self._coroutine(result)
        return result

    async def _coroutine(self, steps: Coroutine[Any, Any, Any]) -> Any:
        with self:
            return await steps

    # A generator shares the context of whoever asks it for the next item, so it is in ours for the
    # length of each step and never while it waits.

    def _generator(
        self, function: Callable[..., Generator[Any, Any, Any]]
    ) -> Callable[..., Generator[Any, Any, Any]]:
        def made(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            steps = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(next, steps)
            while True:
                try:
                    with self:
                        item = step()
                except StopIteration as stop:
                    return stop.value
                try:
                    step = functools.partial(steps.send, (yield item))
                except GeneratorExit:
                    with self:
                        steps.close()
                    raise
                except BaseException as error:
                    step = functools.partial(steps.throw, error)

        return made

    def _async_generator(
        self, function: Callable[..., AsyncGenerator[Any, Any]]
    ) -> Callable[..., AsyncGenerator[Any, Any]]:
        async def made(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            steps = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(anext, steps)
            while True:
                try:
                    with self:
                        item = await step()
                except StopAsyncIteration:
                    return
                try:
                    step = functools.partial(steps.asend, (yield item))
                except GeneratorExit:
                    with self:
                        await steps.aclose()
                    raise
                except BaseException as error:
                    step = functools.partial(steps.athrow, error)

        return made
