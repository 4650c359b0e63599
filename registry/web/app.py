"""The web application: pages, API, metrics and the over-the-air repository behind one address."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles

from core import pages as look
from core.errors import OneScanError
from registry.config import RegistryConfig
from registry.store import SchemaMissing, StoreUnavailable, reader
from registry.web import api, pages

_CACHEABLE = ("/static/", "/own/", "/tuf/")


def web_app(settings: RegistryConfig) -> FastAPI:
    """The ASGI application; it reads the database, and answers 503 while that is down."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with reader(settings.database) as store:
            app.state.store = store
            yield

    app = FastAPI(title="OneScan registry", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.middleware("http")(_with_headers)
    app.add_exception_handler(StoreUnavailable, _unavailable)
    app.add_exception_handler(SchemaMissing, _unavailable)
    app.include_router(api.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=look.STATIC), name="static")
    app.mount("/own", StaticFiles(directory=Path(__file__).parent / "static"), name="own")
    if settings.web.tuf_folder is not None:
        # Starlette answers Range and If-Range, which a device uses to go on after a broken download.
        app.mount("/tuf", StaticFiles(directory=settings.web.tuf_folder, check_dir=False), name="tuf")
    return app


async def _with_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    for name, value in look.SECURITY_HEADERS.items():
        if name != "Cache-Control" or not request.url.path.startswith(_CACHEABLE):
            response.headers.setdefault(name, value)
    return response


def _unavailable(_request: Request, error: Exception) -> Response:
    remedy = error.remedy() if isinstance(error, OneScanError) else ""
    return PlainTextResponse(f"{error}\n{remedy}\n", 503, headers={"Retry-After": "5"})
