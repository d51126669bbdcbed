"""Types of the options that are accepted with their neutral value alone."""

import json
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError


def _same(value: object, neutral: object) -> bool:
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _as_json(value: object) -> str:
    return json.dumps(value, default=repr)


def only(*neutral: object) -> AfterValidator:
    """Refuse every value but the neutral ones (null never arrives here)."""

    def check(value: object) -> object:
        if any(_same(value, each) for each in neutral):
            return value
        allowed = " or ".join(["null", *(_as_json(each) for each in neutral)])
        context = {"allowed": allowed, "found": _as_json(value)[:80]}
        raise PydanticCustomError("unsupported_value", "only {allowed} is supported, got {found}", context)

    return AfterValidator(check)


Absent = Annotated[object, only()]
Off = Annotated[object, only(False)]
On = Annotated[object, only(True)]
Zero = Annotated[object, only(0)]
One = Annotated[object, only(1)]
EmptyList = Annotated[object, only([])]
EmptyObject = Annotated[object, only({})]
