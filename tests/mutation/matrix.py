"""Applies mutations to a copy of the tree, one at a time, and sees which tests fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.mutation.mutations import Mutation

ROOT = Path(__file__).parents[2]
PACKAGES = ("kernels", "model", "server", "clients/python")
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "runs", "dist")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
TIMEOUT_S = 240
"""A mutation may leave a test waiting for ever; that is noticed too."""


@dataclass(frozen=True)
class Outcome:
    """What became of one mutation: the tests that failed; none if it survived."""

    mutation: Mutation
    killers: tuple[str, ...]

    @property
    def killed(self) -> bool:
        return bool(self.killers)


class Unfit(Exception):
    """A mutation's text is not in its file exactly once: the source has moved on, the list has not."""


def copy_tree(to: Path) -> Path:
    """The working tree, without what tools leave in it."""
    return shutil.copytree(ROOT, to / "tree", ignore=LEFT_OUT, symlinks=True)


def check_fits(mutation: Mutation, tree: Path = ROOT) -> None:
    """Raises Unfit."""
    count = (tree / mutation.file).read_text(encoding="utf-8").count(mutation.before)
    if count != 1:
        raise Unfit(f"{mutation.name}: its text is {count} times in {mutation.file}")
    for test in mutation.tests:
        if not (tree / test).exists():
            raise Unfit(f"{mutation.name}: there is no {test}")


def outcomes(mutations: Iterable[Mutation], tree: Path) -> Iterator[Outcome]:
    """Each mutation of the copy ``tree``, which is whole again after each."""
    for mutation in mutations:
        check_fits(mutation, tree)
        path = tree / mutation.file
        source = path.read_text(encoding="utf-8")
        path.write_text(source.replace(mutation.before, mutation.after), encoding="utf-8")
        try:
            yield Outcome(mutation, tuple(dict.fromkeys(_failures(mutation.tests, tree))))
        finally:
            path.write_text(source, encoding="utf-8")


def _failures(tests: Iterable[str], tree: Path) -> Iterator[str]:
    """The names of failed tests, file by file up to the first file in which one fails."""
    paths = os.pathsep.join(str(tree / package) for package in PACKAGES)
    env = {**os.environ, "PYTHONPATH": paths}
    run = partial(subprocess.run, cwd=tree, env=env, capture_output=True, text=True, timeout=TIMEOUT_S)
    options = ["-n0", "-q", "-x", "-rfE", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    for test in tests:
        command = [sys.executable, "-m", "pytest", *options, test]
        try:
            done = run(command, check=False)
        except subprocess.TimeoutExpired:
            yield f"{test} (does not end)"
            return
        if found := FAILED.findall(done.stdout):
            yield from found
            return
        if done.returncode != 0:
            yield f"{test} (status {done.returncode})"
            return
