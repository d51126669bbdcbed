"""libFuzzer on one target: `python -m tests.fuzz.one NAME SECONDS FOLDER`. It ends the process itself."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["hope_client", "hope_server", "hope_model"]):
    from tests.fuzz.targets import TARGETS

MAX_BYTES = 1 << 16


def main(name: str, seconds: str, folder: str) -> None:
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", f"-artifact_prefix={folder}/crash-"]
    atheris.Setup([sys.argv[0], folder, *options], TARGETS[name].check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
