"""The pages as a FastAPI application. Every page is whole without JavaScript; `live.js` only refreshes parts of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from appliance.console.overview import Overview
from core import pages

_LIMIT = 100
_DAYS = 7


def create_app(overview: Overview) -> FastAPI:
    """The box's pages over `overview`."""
    app = FastAPI(title="OneScan appliance", docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=pages.STATIC), name="static")
    templates = Jinja2Templates(directory=[Path(__file__).parent / "templates", pages.TEMPLATES])
    templates.env.filters["ago"] = pages.ago
    templates.env.filters["moment"] = pages.moment

    @app.middleware("http")
    async def with_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(pages.SECURITY_HEADERS)
        return response

    def page(request: Request, name: str, **values: Any) -> Response:
        return templates.TemplateResponse(request, name, {"box": overview.box(), **values})

    @app.get("/")
    def home(request: Request) -> Response:
        return page(request, "home.html", studies=overview.studies(_LIMIT), **_days(overview))

    @app.get("/fragment/box")
    def box_fragment(request: Request) -> Response:
        return page(request, "box.html")

    @app.get("/fragment/studies")
    def studies_fragment(request: Request) -> Response:
        return page(request, "studies.html", studies=overview.studies(_LIMIT))

    @app.get("/fragment/days")
    def days_fragment(request: Request) -> Response:
        return page(request, "days.html", **_days(overview))

    @app.get("/studies/{identifier}")
    def study(request: Request, identifier: str) -> Response:
        return page(request, "study.html", **_of_study(overview, identifier))

    @app.get("/fragment/studies/{identifier}")
    def study_fragment(request: Request, identifier: str) -> Response:
        return page(request, "study_parts.html", **_of_study(overview, identifier))

    @app.get("/api/v1/box")
    def box_json() -> dict[str, Any]:
        return asdict(overview.box())

    @app.get("/api/v1/studies")
    def studies_json(limit: int = _LIMIT) -> list[dict[str, Any]]:
        return [asdict(study) for study in overview.studies(min(max(limit, 1), 1000))]

    @app.get("/api/v1/days")
    def days_json(limit: int = _DAYS) -> dict[str, Any]:
        counted = min(max(limit, 1), 90)
        return {
            "days": [day.model_dump() for day in overview.days(counted)],
            "asked": [asdict(ask) for ask in overview.asks()],
            "missed": [asdict(study) for study in overview.missed(counted)],
        }

    @app.get("/healthz")
    def healthy() -> dict[str, str]:
        return {"status": "ok", "software": overview.box().software}

    return app


def _days(overview: Overview) -> dict[str, Any]:
    return {"days": overview.days(_DAYS), "asks": overview.asks(), "missed": overview.missed(_DAYS)}


def _of_study(overview: Overview, identifier: str) -> dict[str, Any]:
    study = overview.study(identifier)
    if study is None:
        raise HTTPException(404, "No such study on this box.")
    return {"study": study, "steps": overview.steps(identifier), "objects": overview.objects(identifier)}
