"""GET /v1/models: the one model that is served."""

from __future__ import annotations

from fastapi import APIRouter

from hope_client.wire import Model, ModelList
from hope_server.api.runtime import Runtime, RuntimeOf
from hope_server.api.turn import check_model

router = APIRouter(tags=["models"])


@router.head("/v1/models", include_in_schema=False)
@router.get("/v1/models")
async def models(runtime: RuntimeOf) -> ModelList:
    """All models: one."""
    return ModelList(data=[_served(runtime)])


@router.head("/v1/models/{name:path}", include_in_schema=False)
@router.get("/v1/models/{name:path}")
async def model(name: str, runtime: RuntimeOf) -> Model:
    """The model of that name."""
    check_model(runtime, name)
    return _served(runtime)


def _served(runtime: Runtime) -> Model:
    return Model(id=runtime.model_name, created=runtime.created)
