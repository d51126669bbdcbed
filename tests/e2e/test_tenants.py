"""Tenants on a real server over its own Valkey: keys made and ended while it runs, three of them apart."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from hope_client import APIStatusError, Client

TENANTS = ("acme", "acme-2", "umbrella")


def keys(server_data: Path, *arguments: str) -> str:
    """What `hope keys` prints."""
    command = [sys.executable, "-m", "hope_server", "keys", *arguments, "--data-dir", str(server_data)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_three_tenants_and_an_operator(start_server: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    held = {tenant: keys(data, "create", "--tenant", tenant) for tenant in TENANTS}
    operator = keys(data, "create", "--operator")
    server = start_server("--host", "0.0.0.0")
    url = server.url.replace("0.0.0.0", "127.0.0.1")
    assert httpx.get(f"{url}/v1/models").status_code == 401
    sessions = {}
    for tenant, key in held.items():
        with Client(base_url=url, api_key=key) as client:
            sessions[tenant] = client.sessions.create(f"<{tenant}>").id
            client.chat(f"the canary of <{tenant}>", session_id=sessions[tenant], max_tokens=4)
    for tenant, key in held.items():
        with Client(base_url=url, api_key=key) as client:
            assert [session.id for session in client.sessions.list().data] == [sessions[tenant]]
            for owner, session in sessions.items():
                for ask in (client.sessions.get, client.sessions.levels, client.sessions.events):
                    if owner == tenant:
                        ask(session)
                        continue
                    with pytest.raises(APIStatusError) as refused:
                        ask(session)
                    assert (refused.value.status, refused.value.code) == (404, "session_not_found")
    figures = httpx.get(f"{url}/metrics", headers=bearer(operator)).text
    assert "hope:num_requests_running" in figures
    for tenant, session in sessions.items():
        assert session not in figures
        for theirs in (held[tenant], f"<{tenant}>"):
            assert theirs not in figures + server.log()
    assert server.stop() == 0


def test_keys_begin_and_end_while_the_server_runs(start_server: Any, tmp_path: Path) -> None:
    server = start_server()
    with server.client() as client:
        session = client.sessions.create().id
    key = keys(tmp_path / "data", "create")
    assert httpx.get(f"{server.url}/v1/sessions").status_code == 401
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key) as client:
        text = client.completions.create(
            model="hope-tiny", prompt="Once", max_tokens=2, extra_headers={"X-Session-ID": session}
        )
        assert text.usage is not None
        keys(tmp_path / "data", "revoke", key.split("_")[1])
        with pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        assert refused.value.code == "invalid_api_key"
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert server.stop() == 0
