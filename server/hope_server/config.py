"""The server's settings: one class; each field is a flag of `hope serve` and a HOPE_* variable.

A flag wins over a variable, a variable over the default. A bad value stops the start and names the setting.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from hope_server.errors import StartupError

ENV_PREFIX = "HOPE_"
MAX_THREADS = 1024
DEVICES = r"^(cpu|cuda(:\d{1,3})?)$"
Quantize = Literal["none", "int8", "int4"]
LogLevel = Literal["debug", "info", "warning", "error"]


def default_data_dir() -> Path:
    """`hope` below the user's state directory (XDG_STATE_HOME, else ~/.local/state)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state") / "hope"


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _seconds(default: float, what: str) -> Any:
    """A time limit: more than nothing, at most a day."""
    return Field(default=default, gt=0, le=86400, allow_inf_nan=False, description=f"seconds that {what}")


class ServerConfig(BaseSettings):
    """Validated once, at the start; frozen afterwards."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, populate_by_name=True
    )

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one")
    model: str = Field(
        default="smollm2-135m",
        min_length=1,
        description="smollm2-135m (fetched and converted on first use), hope-tiny, or a checkpoint directory",
    )
    device: str = Field(
        default="cpu",
        pattern=DEVICES,
        description="cpu, cuda or cuda:N: where the model and the sessions in slots are. Not measured on a "
        "GPU, so one is used only when asked for. Servers that share sessions need devices of one kind",
    )
    learn: bool = Field(
        default=True,
        description="sessions learn; without it a Hope-Attention model answers as it was trained",
    )
    quantize: Quantize = Field(
        default="none",
        description="how a CPU keeps the weights of a Hope-Attention model; a session goes on only with "
        "those that it began with. One from a GGUF file of Q4_0, Q4_1 or Q8_0 is kept in these bits by "
        "`none`, which is as fast",
    )
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="directory of the embedded store's data (made if missing)",
    )
    keys_dir: Path | None = Field(
        default=None,
        description="directory of the API keys, which `hope keys` makes; `keys` below data_dir unless given",
    )
    redis_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices(f"{ENV_PREFIX}REDIS_URL", "REDIS_URL"),
        description="Redis or Valkey that holds the sessions; without one the server runs its own Valkey",
    )
    appendfsync: Literal["always", "everysec"] = Field(
        default="always",
        description="when the server's own Valkey writes commits through to the disk: before they are "
        "acknowledged, or every second, so that a crash of it may lose acknowledged tokens",
    )
    commit_interval_s: float = Field(
        default=0.016,
        ge=0,
        le=1,
        description="seconds that tokens may gather for a commit where steps are faster than that: no longer "
        "than a screen shows a frame; 0 commits after each step, which costs throughput",
        allow_inf_nan=False,
    )
    encryption_key_file: Path | None = Field(
        default=None,
        description="file of the keys that seal every stored value, oldest first, of mode 0600; without one "
        f"{ENV_PREFIX}ENCRYPTION_KEYS, else a file in the data directory, made at the first start. Servers "
        "that share a Redis share the keys",
    )
    lease_ttl_s: float = Field(
        default=15.0,
        ge=1,
        le=3600,
        description="seconds that other servers on one Redis wait for a session whose server died in a turn",
        allow_inf_nan=False,
    )
    slots: int = Field(
        default=32, ge=1, le=65536, description="sessions whose state is on the device at once"
    )
    host_state_bytes: int = Field(
        default=1 << 29,
        ge=0,
        le=1 << 44,
        description="bytes of memory for the states of sessions that had to leave the device; such a session "
        "goes on without the store; 0 keeps none",
    )
    decode_rows: int = Field(
        default=4,
        ge=1,
        le=1024,
        description="rows of one decode step, where bits are only the same in batches of one shape; "
        "on a GPU the most rows of one launch",
    )
    threads: int = Field(
        default_factory=usable_cores, ge=1, le=MAX_THREADS, description="CPU threads for the model"
    )
    max_waiting: int = Field(default=128, ge=0, le=1_000_000, description="turns that may wait for a slot")
    max_prompt_tokens: int = Field(
        default=65536, ge=1, le=250_000, description="tokens that one request may bring to read"
    )
    max_output_tokens: int = Field(
        default=8192, ge=1, le=1_000_000, description="tokens that one request may ask to generate"
    )
    default_output_tokens: int = Field(
        default=512,
        ge=1,
        le=1_000_000,
        description="tokens that a chat answer may have when the request does not say",
    )
    max_body_bytes: int = Field(
        default=4 << 20, ge=1024, le=1 << 30, description="bytes of the largest request body that is read"
    )
    max_import_bytes: int = Field(
        default=64 << 20,
        ge=1024,
        le=1 << 32,
        description="bytes of the largest session file that is read",
    )
    max_transfers: int = Field(
        default=4,
        ge=1,
        le=1024,
        description="exports and imports of sessions at once, imports in memory; half of them for one tenant",
    )
    max_header_bytes: int = Field(
        default=32768, ge=1024, le=1 << 20, description="bytes of the largest request head that is read"
    )
    keep_alive_s: float = Field(
        default=75.0,
        ge=0,
        le=3600,
        description="seconds after which an idle connection is closed",
        allow_inf_nan=False,
    )
    head_timeout_s: float = _seconds(10.0, "a client has to send the head of a request")
    body_timeout_s: float = _seconds(60.0, "a client has to send the body of a request")
    write_timeout_s: float = _seconds(60.0, "a client may take nothing of an answer before it is cut off")
    turn_timeout_s: float = _seconds(3600.0, "one turn may take, the wait for its slot included")
    max_connections: int = Field(default=1024, ge=1, le=65536, description="connections open at once")
    drain_deadline_s: float = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="seconds that running turns get to finish at a stop",
        allow_inf_nan=False,
    )
    frequency_window_tokens: int = Field(
        default=65536,
        ge=1,
        le=1 << 30,
        description="H: tokens over which the metrics measure a level's update frequency; many times the "
        "longest period, for each session that is busy",
    )
    tracing: bool = Field(
        default=False,
        description="send OpenTelemetry spans to where the OTEL_* variables say; needs the extra otel",
    )
    log_level: LogLevel = Field(default="info", description="least severe messages that are logged")
    log_format: Literal["text", "json"] = Field(
        default="text", description="the log on stderr: lines to read, or an object a line"
    )

    @field_validator("host")
    @classmethod
    def _host_is_an_address(cls, host: str) -> str:
        if host != "localhost":
            _ip(host)
        return host

    @field_validator("data_dir", "keys_dir", "encryption_key_file")
    @classmethod
    def _path_of_the_user(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser()

    @field_validator("redis_url")
    @classmethod
    def _redis_url_has_a_scheme(cls, url: str | None) -> str | None:
        if url is not None and "://" not in url:
            raise PydanticCustomError("url", "expected a URL such as redis://host:6379/0")
        return url

    @property
    def keys_directory(self) -> Path:
        """Where the API keys are."""
        return self.keys_dir or self.data_dir / "keys"

    @classmethod
    def load(cls, flags: Mapping[str, object]) -> ServerConfig:
        """Settings from flags (by field name), the environment and defaults.

        Raises:
            StartupError: A value does not fit; `param` names the setting.
        """
        try:
            return cls(**flags)  # type: ignore[arg-type]
        except ValidationError as error:
            raise _startup_error(error) from None


def flag(name: str) -> str:
    """The command-line flag of a field."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment variable of a field."""
    return ENV_PREFIX + name.upper()


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        raise PydanticCustomError("host", "expected an IP address or localhost") from None


def _startup_error(error: ValidationError) -> StartupError:
    first = error.errors(include_url=False)[0]
    location = str(first["loc"][0])
    name = location.lower().removeprefix(ENV_PREFIX.lower())
    if name not in ServerConfig.model_fields:
        return StartupError(f"{flag(name)}: no such setting", param=name)
    # A URL may hold a password.
    found = "" if name == "redis_url" else f", found {first['input']!r}"
    message = first["msg"].removeprefix("Input should be ").removeprefix("expected ")
    return StartupError(f"{flag(name)} ({variable(name)}): expected {message}{found}", param=name)
