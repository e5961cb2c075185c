"""ASGI and WSGI middleware: each request in an audit_context of its own. No framework is needed."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, TypeAlias

from alembic_audit.context import audit_context

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Environ: TypeAlias = dict[str, Any]
WSGIApp: TypeAlias = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class AuditASGIMiddleware:
    """Run each HTTP request and WebSocket in an audit_context; other scopes pass as they are.

    Background tasks and streaming responses are part of the request's call and stay inside::

        app.add_middleware(
            AuditASGIMiddleware,
            username=lambda scope: scope["user"].name,
            path=lambda scope: scope["path"],
        )

    Args:
        app: The application.
        **settings: For each session setting, without ``audit.``, a function of the ASGI scope that
            returns its value, or something to await for it. None means no value.
    """

    def __init__(self, app: ASGIApp, **settings: Callable[[Scope], Any | Awaitable[Any]]) -> None:
        _check(settings)
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        values = {}
        for name, function in self.settings.items():
            value = function(scope)
            values[name] = await value if inspect.isawaitable(value) else value
        with audit_context(**values):
            await self.app(scope, receive, send)


class AuditWSGIMiddleware:
    """Run each request in an audit_context, each step of a streaming response and its end too.

    Of Flask, for example::

        app.wsgi_app = AuditWSGIMiddleware(app.wsgi_app, path=lambda environ: environ["PATH_INFO"])

    Args:
        app: The application.
        **settings: For each session setting, without ``audit.``, a function of the WSGI environ
            that returns its value. None means no value.
    """

    def __init__(self, app: WSGIApp, **settings: Callable[[Environ], Any]) -> None:
        _check(settings)
        self.app = app
        self.settings = settings

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Handle one request."""
        context = audit_context(**{name: get(environ) for name, get in self.settings.items()})
        wrapper = environ.get("wsgi.file_wrapper")
        files: list[Any] = []
        if wrapper is not None and not isinstance(wrapper, type):  # a function, in uWSGI

            def wrap_file(*arguments: Any) -> Any:
                files.append(wrapper(*arguments))
                return files[-1]

            environ["wsgi.file_wrapper"] = wrap_file
        with context:
            body = self.app(environ, start_response)
        known = (list, tuple, wrapper) if isinstance(wrapper, type) else (list, tuple)
        if isinstance(body, known) or any(body is file for file in files):
            return body  # nothing of the application runs any more, and servers know these
        return _Body(body, context)


class _Body:
    """A response body that is in its context while it works, and never while it waits."""

    def __init__(self, body: Iterable[bytes], context: audit_context) -> None:
        self._body = body
        self._context = context
        with context:
            self._steps = iter(body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._context:
            return next(self._steps)

    def close(self) -> None:
        """End the response, as servers do after the last step."""
        with self._context:
            getattr(self._body, "close", lambda: None)()


def _check(settings: Mapping[str, Callable[..., Any]]) -> None:
    audit_context(**dict.fromkeys(settings))
    for name, function in settings.items():
        if not callable(function):
            raise TypeError(
                f"session setting {name!r} must be given as a function, not {function!r}"
            )
