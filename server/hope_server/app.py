"""The ASGI application: the only place that puts routers, error handlers and middleware together."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from hope_server.api import ROUTERS, errors, openapi
from hope_server.api.context import RequestContext
from hope_server.api.runtime import Runtime


def create_app(runtime: Runtime) -> FastAPI:
    """The application over a started engine. It owns nothing: the caller starts and stops the engine."""
    app = FastAPI(title="Hope Serve", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.runtime = runtime
    for router in ROUTERS:
        app.include_router(router)
    errors.install(app)
    app.add_middleware(RequestContext)

    def document() -> dict[str, Any]:
        return openapi.describe(app)

    app.openapi = document  # type: ignore[method-assign]
    return app
