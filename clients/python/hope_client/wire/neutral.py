"""Types of the options that are accepted with their neutral value alone."""

import json
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


def _same(value: object, neutral: object) -> bool:
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _as_json(value: object) -> str:
    return json.dumps(value, default=repr)


class only:
    """Refuse every value but the neutral ones (null never arrives here)."""

    def __init__(self, *neutral: object) -> None:
        self._neutral = neutral

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [None, *self._neutral]}

    def _check(self, value: object) -> object:
        if any(_same(value, each) for each in self._neutral):
            return value
        allowed = " or ".join(["null", *(_as_json(each) for each in self._neutral)])
        context = {"allowed": allowed, "found": _as_json(value)[:80]}
        raise PydanticCustomError("unsupported_value", "only {allowed} is supported, got {found}", context)


Absent = Annotated[object, only()]
Off = Annotated[object, only(False)]
On = Annotated[object, only(True)]
Zero = Annotated[object, only(0)]
One = Annotated[object, only(1)]
EmptyList = Annotated[object, only([])]
EmptyObject = Annotated[object, only({})]
