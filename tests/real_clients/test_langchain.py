"""langchain-openai's ChatOpenAI against a running server: whole, streamed, in a session, with a schema."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, SecretStr
from tests.e2e.server_process import ServerProcess

from hope_client import Client

pytestmark = pytest.mark.clients


def chat(server: ServerProcess, **more: object) -> object:
    from langchain_openai import ChatOpenAI

    options: dict[str, object] = {"model": "hope-tiny", "max_completion_tokens": 12, "seed": 1, **more}
    return ChatOpenAI(base_url=f"{server.url}/v1", api_key=SecretStr("none"), **options)


def test_whole_and_streamed_answers_are_the_same(server: ServerProcess) -> None:
    model = chat(server, stream_usage=True, temperature=0.0)
    whole = model.invoke([("system", "Be brief."), ("user", "Hello")])  # type: ignore[attr-defined]
    chunks = list(model.stream([("system", "Be brief."), ("user", "Hello")]))  # type: ignore[attr-defined]
    assert whole.content
    assert "".join(chunk.content for chunk in chunks) == whole.content
    usages = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert usages == [whole.usage_metadata]
    assert whole.response_metadata["finish_reason"] in ("stop", "length")
    assert whole.response_metadata["model_name"] == "hope-tiny"


async def test_asynchronous_batches(server: ServerProcess) -> None:
    model = chat(server, temperature=0.0)
    found = await model.abatch(["One", "Two", "One"])  # type: ignore[attr-defined]
    assert found[0].content == found[2].content


def test_a_chain_talks_to_a_session(server: ServerProcess) -> None:
    """The header goes with every request; `learn` is one more field of the body."""
    with server.client() as client:
        session = client.sessions.create().id
        model = chat(
            server, default_headers={"X-Session-ID": session}, extra_body={"learn": "off"}, temperature=0.0
        )
        for text in ("My name is Ada.", "What is my name?"):
            model.invoke([("user", text)])  # type: ignore[attr-defined]
        assert spoken(client, session) == ["My name is Ada.", "What is my name?"]
        assert {event.learn for event in client.sessions.events(session).events} == {"off"}


def spoken(client: Client, session: str) -> list[str]:
    """What the user said, as the journal has it."""
    events = client.sessions.events(session, limit=1000).events
    text = "".join((event.text or "\n") for event in events if event.origin == "user")
    return [line for line in text.split("\n") if line]


def test_an_answer_of_a_schema(server: ServerProcess) -> None:
    class Ball(BaseModel):
        colour: str
        size: int

    model = chat(server, max_completion_tokens=200, temperature=0.0)
    found = model.with_structured_output(  # type: ignore[attr-defined]
        {
            "title": "ball",
            "type": "object",
            "properties": {"colour": {"enum": ["red", "blue"]}, "size": {"enum": [1, 2]}},
            "required": ["colour", "size"],
            "additionalProperties": False,
        },
        method="json_schema",
    ).invoke("A ball.")
    ball = Ball.model_validate(found)
    assert ball.colour in ("red", "blue")
    assert ball.size in (1, 2)


def test_the_responses_api(server: ServerProcess) -> None:
    model = chat(server, use_responses_api=True, temperature=0.0, seed=None, output_version="responses/v1")
    whole = model.invoke("Hello")  # type: ignore[attr-defined]
    streamed = list(model.stream("Hello"))  # type: ignore[attr-defined]
    assert whole.text
    assert "".join(chunk.text for chunk in streamed) == whole.text
