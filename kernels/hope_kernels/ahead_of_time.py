"""Compile kernels for chips that are not here, and read what the compiler says of registers and memory.

Needs Triton without its interpreter. What to compile is recorded from the operations themselves: they run
on fake tensors of a fake GPU, and their launches are kept instead of started.

``python -m hope_kernels.ahead_of_time [--first] [CHIP ...]`` prints the reports as JSON; ``--first`` takes
one configuration of each kernel.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from hope_kernels.fake_gpu import fake_gpu, on_fake_gpu
from hope_kernels.launch import OPTIONS, Argument, configurations
from hope_kernels.subject import Subject, outputs
from hope_kernels.subjects import SUBJECTS

TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.uint8: "u8",
    torch.bool: "i1",
}


@dataclass(frozen=True)
class Chip:
    """A compilation target; ``shared_bytes`` is what one program may have."""

    backend: str
    arch: int | str
    lanes: int
    shared_bytes: int


CHIPS = {
    "sm_80": Chip("cuda", 80, 32, 163 << 10),
    "sm_90": Chip("cuda", 90, 32, 227 << 10),
    "sm_100": Chip("cuda", 100, 32, 227 << 10),
    "gfx942": Chip("hip", "gfx942", 64, 64 << 10),
}


@dataclass(frozen=True)
class Recorded:
    """One launch: types and values of its arguments in the kernel's order."""

    kernel: Any
    grid: tuple[int, ...]
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """What a compiler made of a kernel; registers and spills are known for NVIDIA's chips alone."""

    operation: str
    dtype: str
    kernel: str
    configuration: str
    chip: str
    warps: int
    shared_bytes: int
    registers: int | None
    spilled_bytes: int | None
    grid: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """A subject in one type, on one chip, with the configuration of that number."""

    subject: str
    dtype: torch.dtype
    chip: str
    configuration: int


def jobs(chips: Sequence[str] = tuple(CHIPS), *, first: bool = False) -> list[Job]:
    """Every kernel in every type with every configuration, or with the first one alone, for ``chips``."""
    made = []
    for name, subject in SUBJECTS.items():
        for dtype in subject.dtypes:
            kept = max(len(configurations(launch.kernel)) or 1 for launch in recorded(subject, dtype))
            for number in range(1 if first else kept):
                made += [Job(name, dtype, chip, number) for chip in chips]
    return made


def compile_all(work: Sequence[Job], processes: int) -> list[Report]:
    """Reports of all jobs, in order; raises what a compiler raises."""
    with ProcessPoolExecutor(processes) as pool:
        return [report for reports in pool.map(compile_job, work, chunksize=4) for report in reports]


def compile_job(job: Job) -> list[Report]:
    """Compile every kernel that the subject launches."""
    return [_compile(job, launch) for launch in recorded(SUBJECTS[job.subject], job.dtype)]


def recorded(subject: Subject, dtype: torch.dtype) -> list[Recorded]:
    """The launches of the subject at the sizes that are served."""
    return _record(subject, dtype)[0]


def bytes_of(subject: Subject, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes that must move at the sizes that are served, and those that the kernel moves by construction."""
    return _record(subject, dtype)[1]


def _record(subject: Subject, dtype: torch.dtype) -> tuple[list[Recorded], tuple[int, int]]:
    launches: list[Recorded] = []

    def record(kernel: Any, grid: tuple[int, ...], arguments: Sequence[Argument], constants: Any) -> None:
        launches.append(_recorded(kernel, grid, arguments, constants))

    with fake_gpu(record) as mode:
        made = subject.arguments(subject.served, rows=subject.served_rows, dtype=dtype)
        arguments = {
            name: on_fake_gpu(value, mode) if isinstance(value, Tensor) else value
            for name, value in made.items()
        }
        needed = subject.needed_bytes(arguments, outputs(subject.op.fused()(**arguments)))
        return launches, (needed, needed + subject.again(arguments))


def _recorded(
    kernel: Any, grid: tuple[int, ...], arguments: Sequence[Argument], constants: dict[str, Any]
) -> Recorded:
    signature: dict[str, str] = {}
    values = dict(constants)
    aligned = []
    for index, (name, argument) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        if isinstance(argument, Tensor):
            signature[name] = f"*{TYPES[argument.dtype]}"
            aligned.append(index)
        elif isinstance(argument, float):
            signature[name] = "fp32"
        elif argument == 1:
            values[name] = 1
        else:
            signature[name] = "i32"
            aligned += [index] * (argument % 16 == 0)
    return Recorded(kernel, grid, signature, values, tuple(aligned))


def _compile(job: Job, launch: Recorded) -> Report:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    chip = CHIPS[job.chip]
    choices = configurations(launch.kernel)
    tuned: dict[str, Any] = {}
    if choices:
        tuned = choices[min(job.configuration, len(choices) - 1)].all_kwargs()
    chosen = launch.constants | tuned
    options = OPTIONS | {name: chosen[name] for name in ("num_warps", "num_stages") if name in chosen}
    kernel = launch.kernel.fn if choices else launch.kernel
    constants = {name: value for name, value in chosen.items() if name in kernel.arg_names}
    if chip.backend == "hip" and "PRECISION" in constants:
        constants["PRECISION"] = "ieee"  # as the wrapper has it there
    signature = {name: launch.signature.get(name, "constexpr") for name in kernel.arg_names}
    attributes = {(index,): [["tt.divisibility", 16]] for index in launch.aligned}
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget(chip.backend, chip.arch, chip.lanes), options=options)
    registers, spilled = _usage(compiled.asm["cubin"]) if chip.backend == "cuda" else (None, None)
    return Report(
        job.subject,
        TYPES[job.dtype],
        kernel.__name__,
        " ".join(f"{name}={value}" for name, value in sorted(tuned.items()) if name != "num_ctas"),
        job.chip,
        compiled.metadata.num_warps,
        compiled.metadata.shared,
        registers,
        spilled,
        launch.grid,
    )


def _usage(binary: bytes) -> tuple[int, int]:
    """Registers a thread and bytes that were spilled, from NVIDIA's own report."""
    from triton.backends import nvidia

    tool = Path(nvidia.__path__[0]) / "bin" / "cuobjdump"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        report = subprocess.run(
            [tool, "-res-usage", path], capture_output=True, text=True, check=True, env=dict(os.environ)
        ).stdout
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", report)}
    return found["REG"], found["STACK"] + found["LOCAL"]


def main(arguments: Sequence[str]) -> None:
    chips = [argument for argument in arguments if argument != "--first"] or list(CHIPS)
    reports = compile_all(jobs(chips, first="--first" in arguments), os.cpu_count() or 1)
    print(json.dumps([asdict(report) for report in reports]))


if __name__ == "__main__":
    main(sys.argv[1:])
