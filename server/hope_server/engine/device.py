"""The device that a model is served on, found before anything is loaded onto it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hope_server.config import flag, variable
from hope_server.errors import StartupError


def find_device(name: str) -> torch.device:
    """The device that ``--device`` names: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        StartupError: this torch, or this machine, does not have it; says what was found.
    """
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if not torch.backends.cuda.is_built():
        raise _missing(name, f"torch {torch.__version__} is built without CUDA")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise _missing(name, f"torch {torch.__version__} finds no CUDA device on this machine")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= count:
        found = ", ".join(f"cuda:{each} {torch.cuda.get_device_name(each)}" for each in range(count))
        raise _missing(name, f"found {found}")
    return torch.device("cuda", index)


@contextmanager
def taking_memory(what: str, setting: str) -> Iterator[None]:
    """Within the block a device that runs out of memory is a StartupError which names ``setting``."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise StartupError(
            f"{flag(setting)} ({variable(setting)}): {what} do not fit into the device's memory: "
            f"{str(error).splitlines()[0]}",
            param=setting,
        ) from error


def _missing(name: str, found: str) -> StartupError:
    return StartupError(
        f"{flag('device')} ({variable('device')}): {name} is not there: {found}", param="device"
    )
