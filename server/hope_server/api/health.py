"""GET /health: the process answers. GET /ready: it admits work."""

from __future__ import annotations

from fastapi import APIRouter, Request

from hope_client.wire import Health, Ready
from hope_server.api.context import require_operator
from hope_server.api.runtime import RuntimeOf
from hope_server.errors import SlowWeightsChanged

router = APIRouter(tags=["operations"])


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health(request: Request, runtime: RuntimeOf, verify_slow_weights: bool = False) -> Health:
    """Alive. With `verify_slow_weights=true`, which is the operator's, the slow weights are hashed again."""
    if not verify_slow_weights:
        return Health()
    require_operator(request)
    unchanged = await runtime.engine.verify_slow_weights()
    runtime.metrics.slow_weights_ok.set(1 if unchanged else 0)
    if not unchanged:
        raise SlowWeightsChanged(
            f"expected slow weights of sha256 {runtime.slow_weights_sha256}, found others"
        )
    return Health()


@router.head("/ready", include_in_schema=False)
@router.get("/ready")
async def ready(runtime: RuntimeOf) -> Ready:
    """Work is admitted: the server is not stopping, its store answers and keeps what it is given."""
    runtime.admit()
    await runtime.check_store()
    return Ready(status="ready")
