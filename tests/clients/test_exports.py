"""What `import hope_client` gives, and what it must not pull in."""

import subprocess
import sys

import hope_client
from hope_client import wire


def test_the_export_list_is_sorted_and_complete() -> None:
    assert hope_client.__all__ == sorted(hope_client.__all__)
    assert all(hasattr(hope_client, name) for name in hope_client.__all__)
    errors = {name for name, value in vars(hope_client.errors).items() if _is_error(value)}
    assert errors <= set(hope_client.__all__)


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, hope_client.HopeClientError)


def test_wire_exports_every_model_once() -> None:
    assert len(wire.__all__) == len(set(wire.__all__))
    models = {cls.__name__ for base in (wire.Request, wire.Response) for cls in _subclasses(base)}
    assert {name for name in models if not name.startswith("_")} <= set(wire.__all__)


def _subclasses(cls: type) -> set[type]:
    below: list[type] = type.__subclasses__(cls)
    return {cls}.union(*(_subclasses(each) for each in below))


def test_importing_the_client_needs_httpx_and_pydantic_alone() -> None:
    program = (
        "import sys\n"
        "for name in 'rich torch numpy fastapi uvicorn redis hope_server hope_model hope_kernels'.split():\n"
        "    sys.modules[name] = None  # importing it raises\n"
        "import hope_client, hope_client.cli\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
