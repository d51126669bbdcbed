"""The life of a server process: settings, checkpoint, store, engine, HTTP; then all of it backwards.

The first SIGTERM or SIGINT drains: nothing new is admitted, running turns finish within the deadline, commits
and snapshots are flushed, the slow weights are hashed once more. A second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import time
from hashlib import sha256

from hope_kernels.dispatch import observe_fallbacks, operations
from hope_model.checkpoint import HOST
from hope_server.api.http_server import BACKLOG, HttpServer
from hope_server.api.runtime import Runtime
from hope_server.app import create_app
from hope_server.config import ServerConfig, flag, variable
from hope_server.constrained import Grammars
from hope_server.engine.device import find_device, taking_memory
from hope_server.engine.fit import check_fits, free_bytes, slot_bytes
from hope_server.engine.request import EngineConfig
from hope_server.engine.service import EngineService
from hope_server.errors import HopeError, StartupError, StoreUnavailable
from hope_server.logging import set_up
from hope_server.metrics import Metrics
from hope_server.models import Served, load_served
from hope_server.sessions import open_store
from hope_server.sessions.embedded import EmbeddedValkey
from hope_server.sessions.keyfile import find_keys
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.store import Deleting, SessionStore
from hope_server.tenants.account import Accounts
from hope_server.tenants.gate import Gate, is_loopback
from hope_server.tenants.key_file import KeyFile
from hope_server.tenants.quota import QuotaFile
from hope_server.tracing import NO_TRACING, Tracing

logger = logging.getLogger("hope.serve")

FAILED = 1

_SOLE_OWNER = sha256(b"hope serve on a Valkey of its own").hexdigest()[:32]
"""One server at a time has the embedded store, by its lock: what it left leased is its next life's."""


def run(config: ServerConfig) -> int:
    """Serve until a signal; returns the process's exit status.

    Raises:
        HopeError: The server cannot start; nothing of it is left running.
    """
    set_up(config.log_level, config.log_format)
    keys, quotas = KeyFile(config.keys_directory), QuotaFile(config.keys_directory)
    quotas.check()
    require_keys_beyond_this_machine(config.host, keys)
    with _listen(config) as listener:
        return asyncio.run(_serve(config, Gate(keys), Accounts(quotas), listener))


async def _serve(config: ServerConfig, gate: Gate, accounts: Accounts, listener: socket.socket) -> int:
    stop = _stop_on_signals()
    async with contextlib.AsyncExitStack() as cleanup:
        device = find_device(config.device)
        served = load_served(
            config.model,
            learning=config.learn,
            threads=config.threads,
            device=device,
            quantize=config.quantize,
        )
        spec, digest = served.model.state_spec, served.digest()
        engine_config = _engine_config(config)
        check_fits(
            engine_config,
            slot_bytes(served.model),
            device=device,
            free=free_bytes(device),
            host_free=free_bytes(HOST),
        )
        keys = find_keys(config.encryption_key_file, config.data_dir)
        store = await _open_store(config, keys, cleanup)
        metrics = Metrics(
            model_name=served.name,
            levels={level.name: level.period for level in spec.levels if level.period is not None},
            window_tokens=config.frequency_window_tokens,
            state_bytes=spec.row_bytes,
            slow_weights_sha256=digest,
        )
        metrics.declare_operations(operations())
        observe_fallbacks(metrics.on_kernel_fallback)
        engine = EngineService(
            served.model, store, engine_config, slow_weights_hash=served.digest, observer=metrics
        )
        with taking_memory(f"{config.slots} sessions", "slots"):
            await engine.start()
        metrics.watch(engine.stats)
        tracing = _open_tracing() if config.tracing else NO_TRACING
        cleanup.push_async_callback(asyncio.to_thread, tracing.close)
        runtime = Runtime(
            config=config,
            engine=engine,
            tokenizer=served.tokenizer,
            chat_format=served.chat_format,
            metrics=metrics,
            model_name=served.name,
            slow_weights_sha256=digest,
            created=int(time.time()),
            check_store=store.check,
            gate=gate,
            accounts=accounts,
            state_bytes=spec.row_bytes,
            grammars=Grammars(served.tokenizer, served.chat_format.stop_token_ids),
            tracing=tracing,
        )
        status = await _answer(runtime, engine, listener, stop)
        return status if _unchanged(served, digest) else FAILED


async def _answer(
    runtime: Runtime, engine: EngineService, listener: socket.socket, stop: asyncio.Event
) -> int:
    """Answer requests until `stop`, then drain. Returns the exit status."""
    server = HttpServer(runtime.config, create_app(runtime))
    runtime.metrics.watch_connections(server.connections)
    _keep_for_life()
    http = asyncio.create_task(server.serve(sockets=[listener]))
    stopped = asyncio.create_task(stop.wait())
    started = asyncio.create_task(server.answering.wait())
    await asyncio.wait({http, started}, return_when=asyncio.FIRST_COMPLETED)
    if server.answering.is_set():
        _announce(runtime, listener)
    await asyncio.wait({http, stopped}, return_when=asyncio.FIRST_COMPLETED)
    status = 0 if stop.is_set() else FAILED
    runtime.stopping = True
    logger.info("stopping: running turns have %g s to finish", runtime.config.drain_deadline_s)
    try:
        await engine.stop(deadline_s=runtime.config.drain_deadline_s)
    except HopeError as error:
        logger.error("not everything could be flushed: %s (%s)", error, error.code)
        status = FAILED
    server.should_exit = True
    for task in (started, stopped):
        task.cancel()
    await asyncio.wait({http, started, stopped})
    if (failure := http.exception()) is not None:
        logger.error("HTTP ended with an error", exc_info=failure)
        status = FAILED
    return status


def require_keys_beyond_this_machine(host: str, keys: KeyFile) -> None:
    """Raises StartupError if other machines reach `host` and no key says who they are."""
    ring = keys.read()
    if is_loopback(host) or (ring is not None and ring.active):
        return
    raise StartupError(
        f"{flag('host')} ({variable('host')}): {host} is reachable from other machines and there is no API "
        f"key in {keys.directory}: make one with `hope keys create`, or keep a loopback address (127.0.0.1)",
        param="host",
    )


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            logger.error("%s again: ending at once", number.name)
            os._exit(128 + number)
        logger.info("%s: stopping", number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return stop


def _listen(config: ServerConfig) -> socket.socket:
    """A listening socket. It is taken first of all: a port in use is found out before anything is loaded."""
    kind, _, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(kind, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        name = "host" if error.errno == errno.EADDRNOTAVAIL else "port"
        raise StartupError(
            f"{flag(name)} ({variable(name)}): cannot listen on {_origin(config.host, config.port)}: "
            f"{error.strerror}",
            param=name,
        ) from None
    return listener


async def _open_store(
    config: ServerConfig, keys: Keyring, cleanup: contextlib.AsyncExitStack
) -> SessionStore:
    url = config.redis_url
    deleting: Deleting = contextlib.nullcontext
    if url is None:
        valkey = EmbeddedValkey(config.data_dir / "valkey", appendfsync=config.appendfsync)
        await valkey.start()
        cleanup.push_async_callback(valkey.stop)
        url, deleting = valkey.url, valkey.erasure.deleting
    try:
        store = await open_store(url, keys, deleting=deleting)
    except StoreUnavailable as error:
        raise StartupError(
            f"{flag('redis_url')} ({variable('redis_url')}): {error}", param="redis_url"
        ) from error
    cleanup.push_async_callback(store.close)
    return store


def _open_tracing() -> Tracing:
    """Raises StartupError without OpenTelemetry's packages."""
    try:
        from hope_server.otel import OtelTracing, provider_from_environment

        return OtelTracing(provider_from_environment())
    except ImportError as error:
        raise StartupError(
            f"{flag('tracing')} ({variable('tracing')}): needs `pip install 'hope-serve[otel]'`, "
            f"found no {error.name}",
            param="tracing",
        ) from error


def _engine_config(config: ServerConfig) -> EngineConfig:
    return EngineConfig(
        slots=config.slots,
        max_waiting=config.max_waiting,
        decode_rows=config.decode_rows,
        max_prompt_tokens=config.max_prompt_tokens,
        threads=config.threads,
        commit_interval_s=config.commit_interval_s,
        lease_ttl_s=config.lease_ttl_s,
        owner_nonce=_SOLE_OWNER if config.redis_url is None else "",
        learn=config.learn,
        host_state_bytes=config.host_state_bytes,
    )


def _keep_for_life() -> None:
    """Of what has been loaded nothing goes before the process does. A collection that looked at all of it
    would stop every thread for 0.1 s, in the middle of answers.
    """
    gc.collect()
    gc.freeze()


def _announce(runtime: Runtime, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    digest = runtime.slow_weights_sha256
    logger.info("slow weights sha256 %s", digest)
    print(f"{runtime.model_name} ready at {_origin(host, port)} (slow weights sha256 {digest})", flush=True)


def _unchanged(served: Served, digest: str) -> bool:
    """Whether the slow weights are those of the start. The engine has stopped: nobody else uses them."""
    found = served.digest()
    if found == digest:
        logger.info("slow weights unchanged: sha256 %s", digest)
        return True
    logger.error("slow weights changed: expected sha256 %s, found %s", digest, found)
    return False


def _origin(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
