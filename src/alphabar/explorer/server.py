"""The page's server: a fixed list of addresses, all on this machine, nothing read from the disk by name.

    GET   /                   the page
    GET   /static/NAME        its scripts and style, out of a fixed table
    GET   /api/options, run   what can be chosen; how far the network is
    POST  /api/…              a question in JSON, answered in JSON; ``sample`` answers line by line
    POST  /api/picture        a picture, as it is

Questions must carry a header that another site's page cannot send, and reach the server under its own name.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from alphabar.errors import AlphabarError, ConfigError, look_up
from alphabar.explorer.answers import ANSWERS, Page, check_body, noised, options, run_state, samples, uploaded
from alphabar.explorer.asking import LANGUAGES, Asked, said, texts_of
from alphabar.explorer.pictures import LARGEST_UPLOAD, too_large
from alphabar.samplers.cores import workers

__all__ = ["application", "serve"]

STATIC = Path(__file__).parent / "static"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
LARGEST_QUESTION = 2**18  # bytes
WORKERS = 2  # tensors so small gain little by a second core, and lose much by waiting for one that trains
OURS = "x-alphabar"  # a header: a page of another site may not send it without being asked about first
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def application(page: Page, host: str = LOOPBACK[0]) -> Starlette:
    """Return the page as an application.

    Args:
        page: what it shows.
        host: where it is served: on the loopback address, it answers under the names of that address alone.
    """

    def of_page(answer: Callable[[Page, Request], Awaitable[Response]]) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            return await answer(page, request)

        return handle

    routes = [
        Route("/", of_page(_start)),
        Route("/static/{name}", of_page(_static)),
        Route("/api/options", of_page(_options)),
        Route("/api/run", of_page(_run)),
        Route("/api/noised", of_page(_noised)),
        Route("/api/picture", of_page(_picture), methods=["POST"]),
        Route("/api/sample", of_page(_sample), methods=["POST"]),
        Route("/api/{question}", of_page(_answer), methods=["POST"]),
    ]
    hosts = list(LOOPBACK) if host in LOOPBACK or host == "::1" else ["*"]
    middleware = [Middleware(_Headers), Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={AlphabarError: _refusal})


def serve(page: Page, host: str, port: int, ready: Callable[[], object] = lambda: None) -> None:
    """Serve the page until interrupted.

    Args:
        page: what it shows.
        host: the address to listen on.
        port: the port.
        ready: called when the server listens.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    config = uvicorn.Config(application(page, host), host=host, port=port, log_level="error", lifespan="off")
    try:
        socket = config.bind_socket()
    except (SystemExit, OSError):
        raise ConfigError(f"{host}:{port} cannot be listened on: choose another --port or --host") from None
    with socket:
        # asyncio does so only for sockets that name their protocol; else answers wait 40 ms for a receipt.
        socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        socket.listen()
        ready()
        with suppress(KeyboardInterrupt):  # how it is meant to end
            uvicorn.Server(config).run(sockets=[socket])


class _Headers:
    """Adds the headers that keep the page to itself."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(scope, receive, with_headers)


async def _refusal(request: Request, wrong: Exception) -> Response:
    return JSONResponse({"error": said(wrong, _texts(request))}, status_code=400)


@lru_cache(maxsize=1)
def _files() -> dict[str, tuple[bytes, str]]:
    """Return everything that is served as it lies, by name: no name is ever a path."""
    return {
        path.name: (path.read_bytes(), KINDS[path.suffix])
        for path in STATIC.iterdir()
        if path.suffix in KINDS
    }


async def _start(page: Page, request: Request) -> Response:
    content, kind = _files()["page.html"]
    return Response(content, media_type=kind)


async def _static(page: Page, request: Request) -> Response:
    found = _files().get(request.path_params["name"])
    if found is None:
        return JSONResponse({"error": "no such file"}, status_code=404)
    return Response(found[0], media_type=found[1])


async def _options(page: Page, request: Request) -> Response:
    return JSONResponse(options(page))


async def _run(page: Page, request: Request) -> Response:
    return JSONResponse(run_state(page))


async def _noised(page: Page, request: Request) -> Response:
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise ConfigError("only the explorer's own page may ask")
    asked = _read(request.query_params.get("asked", ""), request)
    return Response(await _worked_out(noised, page, asked), media_type="image/png")


async def _picture(page: Page, request: Request) -> Response:
    content = await _content(request, LARGEST_UPLOAD, too_large())
    return JSONResponse(await _worked_out(uploaded, page, content))


async def _answer(page: Page, request: Request) -> Response:
    answer = look_up(ANSWERS, request.path_params["question"], "question")
    return JSONResponse(await _worked_out(answer, page, await _asked(request)))


async def _sample(page: Page, request: Request) -> Response:
    return StreamingResponse(_lines(page, await _asked(request)), media_type="application/x-ndjson")


def _lines(page: Page, asked: Asked) -> Iterator[str]:
    return (json.dumps(state) + "\n" for state in samples(page, asked))


async def _worked_out(answer: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(workers(WORKERS), answer, *arguments)


async def _asked(request: Request) -> Asked:
    too_long = ConfigError(f"a question has at most {LARGEST_QUESTION} bytes")
    return _read(await _content(request, LARGEST_QUESTION, too_long), request)


def _read(content: bytes | str, request: Request) -> Asked:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise ConfigError("the question is no JSON") from None
    return Asked(check_body(body), _texts(request))


async def _content(request: Request, most: int, refusal: ConfigError) -> bytes:
    """Return the body, and stop reading beyond ``most`` bytes.

    Raises:
        ConfigError: a longer body, or a question from another site's page.
    """
    if OURS not in request.headers:
        raise ConfigError(f"the header {OURS} is missing: only the explorer's own page may ask")
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise refusal
    return bytes(content)


def _texts(request: Request) -> Mapping[str, str]:
    """Return the texts of the reader's language, which every question of the page names."""
    language = request.query_params.get("lang")
    return texts_of(language if language in LANGUAGES else "en")
