"""Sessions of a pre-trained model, in this process."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hope_model.attention.checkpoint import FAMILY, AttentionCheckpoint
from hope_model.convert.progress import Progress, silent
from hope_model.evaluate.reader import ContextReader, SessionReader
from hope_model.evaluate.sessions.asking import Question, Reply, until_stop
from hope_model.pretrained_tokenizer import PretrainedTokenizer


class AttentionSubject:
    """See :class:`~hope_model.evaluate.sessions.asking.Subject`.

    Args:
        origin: of what sessions read: "text" as a completion's prompt, "user" as words in a chat, which teach
            more.
    """

    widens = True
    rule = FAMILY

    def __init__(self, checkpoint: AttentionCheckpoint, *, origin: str = "text") -> None:
        self._model, self._tokenizer, self._origin = checkpoint.model, checkpoint.tokenizer, origin
        bos = checkpoint.tokenizer.bos_id
        self._start = [] if not checkpoint.add_bos or bos is None else [bos]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer.encode_batch(list(texts))

    def start(self) -> list[int]:
        return self._start

    @contextmanager
    def session(self, *, learn: bool) -> "Iterator[AttentionSession]":
        yield AttentionSession(SessionReader(self._model, learn=learn), self._tokenizer, self._origin)

    @contextmanager
    def wide(self, tokens: int) -> "Iterator[AttentionSession]":
        yield AttentionSession(ContextReader(self._model, tokens), self._tokenizer, self._origin)


class AttentionSession:
    """A reader of conversations that reads one text. A write that is not due is not in a branch."""

    def __init__(
        self, reader: SessionReader | ContextReader, tokenizer: PretrainedTokenizer, origin: str
    ) -> None:
        self._reader, self._tokenizer, self._origin = reader, tokenizer, origin

    def read(self, ids: Sequence[int]) -> None:
        """See ``TextSession``."""
        if ids:
            self._reader.read([(self._origin, ids)])

    def ask(self, questions: Sequence[Question], progress: Progress = silent) -> list[Reply]:
        """See ``TextSession``."""
        texts = self._texts(questions)
        replies = []
        for question, text in zip(questions, texts, strict=True):
            nats = self._reader.judge(question.prompt, question.answers) if question.answers else []
            replies.append(Reply(tuple(nats), text))
            progress("questions", len(replies), len(questions))
        return replies

    def _texts(self, questions: Sequence[Question]) -> list[str]:
        limit = max((question.limit for question in questions), default=0)
        if not limit:
            return [""] * len(questions)
        prompts = [question.prompt for question in questions]
        said = self._reader.answer(prompts, limit, self._tokenizer.eos_ids)
        return [
            until_stop(self._tokenizer.decode(ids[: question.limit]))
            for question, ids in zip(questions, said, strict=True)
        ]
