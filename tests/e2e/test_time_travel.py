"""Time travel over HTTP, with a real model, server and store."""

from typing import Any

from hope_client import Client
from hope_client.wire import Completion


def told(client: Client, session: str, number: int) -> str:
    """A sampled turn with a fixed seed: equal texts for equal states."""
    options: Any = {"max_tokens": 8, "temperature": 1.0, "seed": number, "ignore_eos": True}
    answer: Completion = client.completions([200 + number] * 150, session_id=session, **options)
    return answer.choices[0].text


def test_a_fork_and_a_rollback_go_on_from_the_state_of_then(client: Client) -> None:
    session = client.sessions.create().id
    told(client, session, 1)
    point = client.sessions.get(session).seq
    second = told(client, session, 2)
    third = told(client, session, 3)
    twin = client.sessions.fork(session, seq=point, name="twin")
    assert (twin.seq, twin.tokens, twin.name) == (point, point, "twin")
    assert (told(client, twin.id, 2), told(client, twin.id, 3)) == (second, third)
    back = client.sessions.rollback(session, seq=point)
    assert back.tokens == point
    assert (told(client, session, 2), told(client, session, 3)) == (second, third)
