"""Kernels compile for chips that are not here: no spills on an H100, shared memory within limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from hope_kernels.subjects import SUBJECTS

LIMITS = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
"""Shared memory of one program, bytes, from the vendors' data sheets."""


def compiled(*arguments: str) -> list[dict[str, Any]]:
    """Reports of ``hope_kernels.ahead_of_time``, in a process whose Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "hope_kernels.ahead_of_time", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    reports: list[dict[str, Any]] = json.loads(done.stdout)
    return reports


def check(reports: list[dict[str, Any]], *chips: str) -> None:
    for chip in chips:
        assert {report["operation"] for report in reports if report["chip"] == chip} == set(SUBJECTS)
    for report in reports:
        assert 0 <= report["shared_bytes"] <= LIMITS[report["chip"]], report
        if report["chip"] == "sm_90":
            assert report["spilled_bytes"] == 0, report
            assert 0 < report["registers"] <= 255


def test_every_kernel_compiles_for_amd() -> None:
    """For an H100 all configurations are compiled by ``test_bench.py``."""
    check(compiled("--first", "gfx942"), "gfx942")


@pytest.mark.slow
def test_every_configuration_compiles_for_every_chip() -> None:
    reports = compiled()
    check(reports, *LIMITS)
    tuned = {report["configuration"] for report in reports if report["operation"] == "memory_step"}
    assert len(tuned) > 1
