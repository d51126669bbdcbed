"""GET /metrics: every series, for Prometheus."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from hope_server.api.context import require_operator
from hope_server.api.runtime import RuntimeOf

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

router = APIRouter(tags=["operations"], dependencies=[Depends(require_operator)])


@router.head("/metrics", include_in_schema=False, response_class=Response)
@router.get("/metrics", response_class=Response, responses=TEXT)
async def metrics(runtime: RuntimeOf) -> Response:
    """All series in Prometheus' text format."""
    return Response(runtime.metrics.render(), media_type=MEDIA_TYPE)
