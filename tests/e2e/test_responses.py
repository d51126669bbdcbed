"""Responses and conversations survive the server that made them; OpenAI's client on a real one."""

from typing import Any

import openai

ASK: Any = {"model": "hope-tiny", "max_output_tokens": 12, "temperature": 0}


def connected(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")


def test_killed_between_responses(start_server: Any) -> None:
    first = start_server()
    with connected(first) as client:
        conversation = client.conversations.create(items=[{"role": "system", "content": "Be kind."}])
        said = client.responses.create(input="The cat is red.", conversation=conversation.id, **ASK)
        alone = client.responses.create(input="The dog is blue.", **ASK)
        expected = client.responses.create(input="What colour?", previous_response_id=alone.id, **ASK)
    first.kill()
    second = start_server()
    with connected(second) as client:
        assert client.responses.retrieve(said.id) == said
        items = list(client.conversations.items.list(conversation.id, order="asc"))
        assert [item.role for item in items] == ["system", "user", "assistant"]  # type: ignore[union-attr]
        again = client.responses.create(input="What colour?", previous_response_id=alone.id, **ASK)
        assert again.output_text == expected.output_text, "a fork from exactly there"
        place, fork = expected.to_dict()["hope"], again.to_dict()["hope"]
        assert place["session"] != fork["session"]
        assert place["seq"] == fork["seq"]
        assert place["level_writes"] == fork["level_writes"]
        with client.responses.stream(input="And?", conversation=conversation.id, **ASK) as stream:
            deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
            final = stream.get_final_response()
        assert "".join(deltas) == final.output_text
        client.conversations.delete(conversation.id)
        for response in (alone, expected, again):
            client.responses.delete(response.id)
    with second.client() as own:
        assert own.sessions.list().data == []
    assert "unexpected error" not in second.log()
