"""The middlewares: FastAPI, Starlette and Flask, with background tasks and streaming."""

import asyncio
import io
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fastapi
import flask
import httpx
import pytest
import sqlalchemy as sa
from fastapi.responses import StreamingResponse
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from alembic_audit import (
    AuditASGIMiddleware,
    AuditWSGIMiddleware,
    ContextError,
    SettingError,
    audit_context,
    instrument,
)
from alembic_audit.context import current
from tests.conftest import Database
from tests.settings import METADATA, asynchronous, insert, run, trail


@pytest.fixture
def audited(database: Database) -> Database:
    METADATA.create_all(database.engine)
    return database


@pytest.fixture(params=["asyncpg", "psycopg"])
def engine(audited: Database, request: pytest.FixtureRequest) -> AsyncEngine:
    made = asynchronous(audited, request.param, pool_size=2)
    instrument(made)
    return made


def by_header(scope: Any) -> str | None:
    headers = dict(scope["headers"])
    return headers[b"x-user"].decode() if b"x-user" in headers else None


async def path(scope: Any) -> str:
    """The value can be something to await for."""
    await asyncio.sleep(0)
    found: str = scope["path"]
    return found


async def get(app: Any, *requests: tuple[str, str | None]) -> list[httpx.Response]:
    """Send requests at the same time."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await asyncio.gather(
            *(client.get(url, headers={"x-user": user} if user else {}) for url, user in requests)
        )


# -- ASGI --------------------------------------------------------------------------------------


def fastapi_app(engine: AsyncEngine) -> fastapi.FastAPI:
    app = fastapi.FastAPI()
    app.add_middleware(AuditASGIMiddleware, username=by_header, reason=path)
    maker = async_sessionmaker(engine)

    async def write(number: int) -> None:
        async with maker.begin() as session:
            await session.execute(insert(number))

    @app.get("/endpoint/{number}")
    async def endpoint(number: int) -> str:
        await write(number)
        return "done"

    @app.get("/background/{number}")
    async def background(number: int, tasks: fastapi.BackgroundTasks) -> str:
        tasks.add_task(asyncio.sleep, 0.01)
        tasks.add_task(write, number)
        return "done"

    @app.get("/stream/{number}")
    async def stream(number: int) -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            for one in range(number, number + 3):
                await write(one)
                yield f"{one} "
                await asyncio.sleep(0.005)

        return StreamingResponse(chunks())

    @app.get("/thread/{number}")
    def thread(number: int) -> Any:
        return current()["username"]

    async def login(request: Request) -> AsyncIterator[str]:
        """Select the user first, in the transaction of the request, and say who it is."""
        async with maker.begin() as session:
            request.state.session = session
            name = await session.scalar(sa.select(sa.literal("found")))
            with audit_context(username=name):
                yield name

    @app.get("/login/{number}")
    async def logged_in(number: int, request: Request, name: str = fastapi.Depends(login)) -> str:
        await request.state.session.execute(insert(number))
        return name

    return app


def test_fastapi(audited: Database, engine: AsyncEngine) -> None:
    """Endpoints, background tasks, streams, threads and dependencies are in their request."""
    app = fastapi_app(engine)

    async def work() -> list[httpx.Response]:
        return await get(
            app,
            ("/endpoint/1", "ann"),
            ("/background/10", "ben"),
            ("/stream/20", "cat"),
            ("/endpoint/2", None),
            ("/login/30", "dan"),
            ("/thread/0", "eve"),
        )

    responses = run(engine, work())
    assert ['"done"', '"done"', "20 21 22 ", '"done"', '"found"', '"eve"'] == [
        response.text for response in responses
    ]
    assert [
        (1, "ann", "/endpoint/1"),
        (2, None, "/endpoint/2"),
        (10, "ben", "/background/10"),
        (20, "cat", "/stream/20"),
        (21, "cat", "/stream/20"),
        (22, "cat", "/stream/20"),
        (30, "found", "/login/30"),
    ] == sorted(trail(audited))


def test_a_dependency_that_loses_its_context() -> None:
    """A generator that FastAPI runs in threads enters a context nowhere: an error says so."""
    app = fastapi.FastAPI()

    def login() -> Iterator[None]:
        with audit_context(username="ann"):
            yield

    @app.get("/")
    async def endpoint(user: None = fastapi.Depends(login)) -> str:
        return str(dict(current()))

    with pytest.raises(ContextError, match="a dependency of FastAPI: async def"):
        asyncio.run(get(app, ("/", None)))


def test_starlette(audited: Database, engine: AsyncEngine) -> None:
    """The same in Starlette, with another middleware between."""

    async def write(number: int) -> None:
        async with engine.begin() as connection:
            await connection.execute(insert(number))

    async def endpoint(request: Request) -> PlainTextResponse:
        await write(1)
        return PlainTextResponse("done", background=BackgroundTask(write, 2))

    async def between(request: Request, call_next: Any) -> Any:
        await write(0)
        return await call_next(request)

    app = Starlette(
        routes=[Route("/path", endpoint)],
        middleware=[
            Middleware(AuditASGIMiddleware, username=by_header, reason=path),
            Middleware(BaseHTTPMiddleware, dispatch=between),
        ],
    )
    responses = run(engine, get(app, ("/path", "ann")))
    assert ["done"] == [response.text for response in responses]
    assert [(n, "ann", "/path") for n in (0, 1, 2)] == trail(audited)


def test_a_user_put_there_by_another_middleware() -> None:
    """What an outer middleware writes into the scope is there."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(current()))

    inner = AuditASGIMiddleware(app, username=lambda scope: scope["user"])

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "user": "ann"}, receive, send)

    asyncio.run(outer({"type": "http"}, None, None))
    assert [{"username": "ann"}] == seen


def test_websockets_and_lifespan() -> None:
    """A WebSocket is in a context; the lifespan passes, and no function is asked about it."""
    seen: list[Any] = []

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        seen.append(dict(current()))
        await websocket.close()

    app = Starlette(
        routes=[WebSocketRoute("/ws", socket)],
        middleware=[Middleware(AuditASGIMiddleware, reason=path)],
    )
    scope = {"type": "websocket", "path": "/ws", "headers": [], "query_string": b""}

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        seen.append(message["type"])

    asyncio.run(app(scope, receive, send))
    assert ["websocket.accept", {"reason": "/ws"}, "websocket.close"] == seen

    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["type"], dict(current())))

    asyncio.run(AuditASGIMiddleware(lifespan, reason=path)({"type": "lifespan"}, receive, send))
    assert ("lifespan", {}) == seen[-1]


def test_an_error_leaves_the_context() -> None:
    """An application that fails, and a function that does, leave nothing behind."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError(scope["path"])

    async def work(function: Callable[[Any], Any]) -> None:
        with pytest.raises(KeyError):
            await AuditASGIMiddleware(app, username=function)(
                {"type": "http", "path": "/"}, None, None
            )
        assert {} == current()

    asyncio.run(work(lambda scope: "ann"))
    asyncio.run(work(lambda scope: scope["nothing"]))


@pytest.mark.parametrize("made", [AuditASGIMiddleware, AuditWSGIMiddleware])
def test_wrong_arguments(made: Any) -> None:
    """Names are checked when the application is put together, and values are functions."""
    with pytest.raises(SettingError, match="'user-name'"):
        made(None, **{"user-name": by_header})
    with pytest.raises(TypeError) as caught:
        made(None, username="ann")
    assert "session setting 'username' must be given as a function, not 'ann'" == str(caught.value)


# -- WSGI --------------------------------------------------------------------------------------


@pytest.fixture
def sync_engine(audited: Database, driver: str) -> Iterator[sa.Engine]:
    made = sa.create_engine(audited.url(driver), pool_size=2)
    instrument(made)
    yield made
    made.dispose()


def test_flask(audited: Database, sync_engine: sa.Engine) -> None:
    """Views, streams and what runs at the end of a response are in their request."""
    app = flask.Flask(__name__)
    app.wsgi_app = AuditWSGIMiddleware(  # type: ignore[method-assign]
        app.wsgi_app,
        username=lambda environ: environ.get("HTTP_X_USER"),
        reason=lambda environ: environ["PATH_INFO"],
    )

    def write(number: int) -> None:
        with sync_engine.begin() as connection:
            connection.execute(insert(number))

    @app.get("/view/<int:number>")
    def view(number: int) -> str:
        write(number)
        return "done"

    @app.get("/stream/<int:number>")
    def stream(number: int) -> flask.Response:
        def chunks() -> Iterator[str]:
            for one in range(number, number + 2):
                write(one)
                yield f"{one} "

        response = flask.Response(flask.stream_with_context(chunks()))
        response.call_on_close(lambda: write(number + 2))
        return response

    client = app.test_client()
    assert "done" == client.get("/view/1", headers={"x-user": "ann"}).text
    with client.get("/stream/10", headers={"x-user": "ben"}) as first:
        with client.get("/stream/20", headers={"x-user": "cat"}) as second:
            assert "20 21 " == second.text
        assert {} == current()
        assert "10 11 " == first.text
    assert "done" == client.get("/view/2").text
    with client:  # Flask keeps the request, and the context must not mind
        client.get("/view/3", headers={"x-user": "dan"})
        assert "/view/3" == flask.request.path
    assert {} == current()
    assert [
        (1, "ann", "/view/1"),
        (2, None, "/view/2"),
        (3, "dan", "/view/3"),
        *((number, "ben", "/stream/10") for number in (10, 11, 12)),
        *((number, "cat", "/stream/20") for number in (20, 21, 22)),
    ] == sorted(trail(audited))


def test_streams_of_two_requests_in_turn() -> None:
    """A server may ask two responses in turn: each step is in its own request."""
    closed = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            for _ in range(2):
                yield str(current()["username"]).encode()

        def close(self) -> None:
            closed.append(current()["username"])

    app = AuditWSGIMiddleware(lambda environ, start: Body(), username=lambda e: e["user"])
    one, two = app({"user": "one"}, print), app({"user": "two"}, print)
    steps_of_one, steps_of_two = iter(one), iter(two)
    seen = [next(steps) for steps in (steps_of_one, steps_of_two) * 2]
    for body in (two, one):
        body.close()  # type: ignore[attr-defined]
    assert [b"one", b"two", b"one", b"two"] == seen
    assert ["two", "one"] == closed
    assert {} == current()


def test_bodies_that_servers_know_stay_what_they_are() -> None:
    """A list, whose length makes the Content-Length, and the server's file wrapper pass."""

    class Wrapper:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"file"])

    for body in ([b"x"], (b"x",), Wrapper()):

        def app(environ: Any, start: Any, body: Any = body) -> Iterable[bytes]:
            found: Iterable[bytes] = body
            return found

        wrapped = AuditWSGIMiddleware(app, username=lambda environ: "ann")
        assert body is wrapped({"wsgi.file_wrapper": Wrapper}, print)
    assert [b"file"] == list(wrapped({}, print))


def test_a_file_wrapper_that_is_no_type() -> None:
    """uWSGI's is a function that returns the file: the body passes, any other one is wrapped."""
    opened = io.BytesIO(b"file")

    def app(environ: Any, start: Any) -> Any:
        if environ["PATH_INFO"] == "/file":
            return environ["wsgi.file_wrapper"](opened, 4096)
        return iter([str(current()["username"]).encode()])

    wrapped = AuditWSGIMiddleware(app, username=lambda environ: "ann")

    def body(path: str) -> Iterable[bytes]:
        return wrapped({"PATH_INFO": path, "wsgi.file_wrapper": lambda file, size: file}, print)

    assert opened is body("/file")
    assert [b"ann"] == list(body("/"))


UWSGI_APP = """
import io, sys
from alembic_audit import AuditWSGIMiddleware
from alembic_audit.context import current


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    name = environ["PATH_INFO"]
    if name == "/file":
        return environ["wsgi.file_wrapper"](open(__file__, "rb"), 4096)
    if name == "/stream":
        return (str(current()["path"]).encode() for _ in range(2))
    return [str(current()["path"]).encode()]


application = AuditWSGIMiddleware(app, path=lambda environ: environ["PATH_INFO"])
"""


def test_uwsgi(tmp_path: Path) -> None:
    """The real server: a list, a stream and a file arrive whole."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    if (uwsgi := shutil.which("uwsgi", path=path)) is None:
        pytest.skip("uWSGI is not installed: pip install uwsgi, which compiles it")
    (tmp_path / "served.py").write_text(UWSGI_APP)
    options = "--http-socket served.sock --need-app --die-on-term --wsgi-file served.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [uwsgi, *options.split()], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    try:
        transport = httpx.HTTPTransport(uds=str(tmp_path / "served.sock"), retries=10)
        with httpx.Client(transport=transport, base_url="http://test") as client:
            found = [client.get(name).text for name in ("/list", "/stream", "/file")]
    except httpx.HTTPError as error:
        pytest.fail(f"{error}: {(tmp_path / 'log').read_text()}")
    finally:
        server.terminate()
        server.wait(10)
    assert ["/list", "/stream/stream", UWSGI_APP] == found
