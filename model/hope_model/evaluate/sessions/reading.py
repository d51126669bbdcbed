"""Sessions by what they may do with what they read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hope_model.errors import ConfigError
from hope_model.evaluate.sessions.asking import Question, Reply, Subject, TextSession


@contextmanager
def opened(subject: Subject, condition: str, tokens: int) -> Iterator[TextSession]:
    """A new session that learns ("on"), does not ("off"), or has all of ``tokens`` in sight ("context").

    tokens: the most that it will read, branches included, without the start of a text.
    """
    start = subject.start()
    wide = condition == "context"
    with subject.wide(len(start) + tokens) if wide else subject.session(learn=condition == "on") as session:
        session.read(start)
        yield session


def read_and_ask(subject: Subject, condition: str, context: Sequence[int], question: Question) -> Reply:
    """What a new session says that has read ``context``."""
    with opened(subject, condition, len(context) + tokens_of(question)) as session:
        session.read(context)
        (reply,) = session.ask([question])
    return reply


def tokens_of(question: Question) -> int:
    """The most tokens of a branch that is asked."""
    return len(question.prompt) + max(question.limit, *map(len, question.answers), 0)


def require_conditions(subject: Subject, name: str, conditions: Sequence[str]) -> None:
    """Raises ConfigError where "context" would be the same as "off"."""
    if "context" in conditions and not subject.widens:
        raise ConfigError(
            f"conditions: expected on and off for {name}: 'context' takes a pre-trained model in this "
            f"process, whose window can be widened, found rule {subject.rule!r}"
        )
