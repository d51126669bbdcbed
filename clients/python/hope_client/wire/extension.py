"""What answers say beyond OpenAI's: what the turn did to its session."""

from hope_client.wire.base import Learning, Response


class HopeTurn(Response):
    """The field `hope` of an answer, and of the last chunk of a stream; left out where choices are several.

    session: its id, None for one that is thrown away with this answer. seq: the last number of its journal:
    a fork or a rollback to there is the session as this turn left it. learned_tokens: tokens of the turn that
    the model learns from; 0 with `learn: "off"`. level_writes: writes by level during the turn. drift: how
    far each level has moved, relative to the weights that it changes. learning: whether the session still
    learns. If the turn ended that, the session went back to the last good point of what it had learned, and
    read what came after it without learning.
    """

    session: str | None
    seq: int | None
    learned_tokens: int
    level_writes: dict[str, int]
    drift: dict[str, float]
    learning: Learning = "on"
