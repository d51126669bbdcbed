"""Who may import whom (design section 7), read from the sources; and what nobody may import or call."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "hope_kernels": ROOT / "kernels" / "hope_kernels",
    "hope_model": ROOT / "model" / "hope_model",
    "hope_server": ROOT / "server" / "hope_server",
    "hope_client": ROOT / "clients" / "python" / "hope_client",
}
MAY_IMPORT = {
    "hope_kernels": {"hope_kernels"},
    "hope_model": {"hope_kernels", "hope_model"},
    "hope_server": {"hope_kernels", "hope_model", "hope_server", "hope_client"},
    "hope_client": {"hope_client"},
}
CLIENT_NEEDS = {"httpx", "pydantic", "pydantic_core"}
WITHOUT_TORCH = (
    *("api", "chat", "config.py", "cli.py", "errors.py", "logging.py", "app.py"),
    *("metrics.py", "series.py", "gauges.py", "tracing.py", "otel.py"),
)
POLICY = ("scheduler.py", "slots.py", "host_tier.py", "decode_sizes.py")
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "torch.jit.load", "torch.package", "numpy.load", "np.load"}


def sources(folder: Path) -> list[Path]:
    """Python files in order; at least one, so that a moved folder fails instead of passing unread."""
    files = [folder] if folder.suffix == ".py" else sorted(folder.rglob("*.py"))
    assert files, f"no sources in {folder}"
    return files


def imports(path: Path, *, at_run_time: bool = False) -> Iterator[tuple[str, int]]:
    """The modules that a file imports, and the line; `at_run_time`: without those for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = (
        {id(node) for block in _type_checking(tree) for node in ast.walk(block)} if at_run_time else set()
    )
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from ((f"{node.module}.{name.name}", node.lineno) for name in node.names)


def _type_checking(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from node.body


def top(module: str) -> str:
    return module.partition(".")[0]


def wrong(folder: Path, allowed: object, *, at_run_time: bool = False) -> list[str]:
    """The imports of a folder that `allowed(module)` refuses, as file:line: module."""
    assert callable(allowed)
    return [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in sources(folder)
        for module, line in imports(path, at_run_time=at_run_time)
        if not allowed(module)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_in_one_direction(package: str) -> None:
    ours = PACKAGES.keys()
    assert not wrong(PACKAGES[package], lambda m: top(m) not in ours or top(m) in MAY_IMPORT[package])


def test_the_client_needs_httpx_and_pydantic_alone() -> None:
    """`hope chat` draws with rich and reads lines with prompt_toolkit, imported when it runs."""
    for path in sources(PACKAGES["hope_client"]):
        at_terminal = path.name == "cli.py" or path.name.startswith("_chat")
        extra = {"rich", "prompt_toolkit"} if at_terminal else set()
        allowed = CLIENT_NEEDS | extra | {"hope_client"} | sys.stdlib_module_names
        assert not wrong(path, lambda module, allowed=allowed: top(module) in allowed)


def test_importing_the_client_loads_neither_torch_nor_the_server() -> None:
    _loads_none("import hope_client, hope_client.cli", "torch", "redis", "hope_server", "hope_model")


@pytest.mark.parametrize("name", POLICY)
def test_policy_knows_neither_torch_nor_redis(name: str) -> None:
    path = PACKAGES["hope_server"] / "engine" / name
    assert not wrong(path, lambda module: top(module) not in ("torch", "redis", "hope_model", "hope_kernels"))
    _loads_none(f"import hope_server.engine.{path.stem}", "torch", "redis")


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_the_api_and_what_surrounds_it_do_not_import_torch(name: str) -> None:
    forbidden = {"torch", "hope_model", "hope_kernels", "redis"}
    light = {"hope_model.errors.HopeModelError"}
    path = PACKAGES["hope_server"] / name
    assert not wrong(path, lambda m: top(m) not in forbidden or m in light, at_run_time=True)


def test_the_whole_application_loads_without_torch() -> None:
    _loads_none("import hope_server.app", "torch", "redis")


def _loads_none(statement: str, *modules: str) -> None:
    code = f"import sys; {statement}; print(*({set(modules)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "", f"{statement} loads {done.stdout.strip()}"


@pytest.mark.parametrize("folder", ["server", "model", "kernels", "clients", "clients/python", "tests"])
def test_top_folders_are_no_packages(folder: str) -> None:
    """A package there would give every module a second name, and every class a twin."""
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


def test_nobody_imports_a_package_through_its_folder() -> None:
    folders = {"server", "model", "kernels", "clients"}
    for folder in (*PACKAGES.values(), ROOT / "tests"):
        assert not wrong(folder, lambda module: top(module) not in folders)


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_unpickles_or_evaluates(package: str) -> None:
    folder = PACKAGES[package]
    assert not wrong(folder, lambda module: top(module) not in UNSAFE_MODULES)
    for path in sources(folder):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in UNSAFE_CALLS, f"{path.relative_to(ROOT)}:{node.lineno}: {called}"


def test_the_checks_see_what_they_look_for(tmp_path: Path) -> None:
    """Nested imports count; those for type checkers do not at run time."""
    path = tmp_path / "probe.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "def f():\n    from redis.asyncio import Redis\n"
    )
    assert {top(module) for module, _ in imports(path)} == {"typing", "torch", "redis"}
    assert {top(module) for module, _ in imports(path, at_run_time=True)} == {"typing", "redis"}
