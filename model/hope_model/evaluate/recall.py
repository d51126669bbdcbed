"""Facts told once, asked for when they have left the window: with learning, without, and never out of sight.

Everyone tells all their facts in one message and then talks about something else; at each distance the
questions are asked in branches, which the conversation does not notice.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from hope_model.attention.model import HopeAttention
from hope_model.convert.progress import Progress, silent
from hope_model.errors import ConfigError
from hope_model.evaluate.conversation import ChatFormat, Part, Transcript
from hope_model.evaluate.facts import Person, contains
from hope_model.evaluate.reader import ContextReader, Reader, SessionReader
from hope_model.evaluate.sanity import Sanity, SanityCheck
from hope_model.evaluate.unrelated import PROMPTS

CONDITIONS = ("on", "off", "ceiling")
"""Learning, not learning, and the unadapted model with all tokens in sight."""
GREETING = "Nice to meet you! What would you like to talk about?"
ANSWER_TOKENS = 32

CeilingOf = Callable[[int], Reader]
"""A new reader that never forgets, for at most the given number of tokens."""


@dataclass(frozen=True)
class RecallSettings:
    """Where and how often is asked.

    distances: between telling and asking, in windows of the model, ascending. sane: sessions at each distance
    that are also asked about unrelated things.
    """

    distances: tuple[float, ...] = (2.0, 8.0)
    sane: int = 4

    def __post_init__(self) -> None:
        far = self.distances
        if not far or any(not math.isfinite(each) or each < 1 for each in far) or sorted(set(far)) != [*far]:
            raise ConfigError(f"distance: expected ascending numbers of windows, at least 1, found {far}")
        if self.sane < 1:
            raise ConfigError(f"sanity people: expected at least 1, found {self.sane}")


@dataclass(frozen=True)
class Judged:
    """One question: scores of its answers in nats, the right one first; free: a free answer held the fact."""

    person: int
    kind: str
    scores: tuple[float, ...]
    free: bool

    @property
    def ranked_first(self) -> bool:
        return self.scores[0] > max(self.scores[1:])


@dataclass(frozen=True)
class Distance:
    """What was found at one distance.

    windows: as asked for. tokens: between the facts and the questions, the mean over people. judged: every
    question by condition. sanity: of the first sessions, with learning on.
    """

    windows: float
    tokens: float
    judged: Mapping[str, Sequence[Judged]]
    sanity: Sequence[Sanity]


@dataclass(frozen=True)
class RecallResult:
    """All distances; repetition: that of the unadapted model on the unrelated prompts."""

    distances: Sequence[Distance]
    repetition: float


@dataclass(frozen=True)
class _Stage:
    """What is read up to a distance, how far the facts are then, and the questions there."""

    parts: Sequence[Part]
    tokens: int
    prompts: Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class _Asked:
    """A person's answers as ids, and what to subtract from their likelihoods."""

    answers: Sequence[Sequence[Sequence[int]]]
    priors: Sequence[Sequence[float]]


class Recall:
    """The measurement for one model.

    Args:
        model: whose memory is measured.
        chat: how it talks.
        settings: where is asked.
        ceiling: what never forgets; by default the model itself with an unlimited window.
        prompts: the unrelated ones.
    """

    def __init__(
        self,
        model: HopeAttention,
        chat: ChatFormat,
        settings: RecallSettings,
        *,
        ceiling: CeilingOf | None = None,
        prompts: Sequence[str] = PROMPTS,
    ) -> None:
        self._model, self._chat, self._settings = model, chat, settings
        self._ceiling = ceiling or (lambda tokens: ContextReader(model, tokens))
        self._prompts = prompts

    def measure(self, people: Sequence[Person], progress: Progress = silent) -> RecallResult:
        """Every one of ``people`` tells, talks and is asked, in sessions of their own."""
        progress("unrelated prompts to the unadapted model")
        check = SanityCheck(self._model, self._chat, self._prompts)
        judged: list[dict[str, list[Judged]]] = [{} for _ in self._settings.distances]
        sanity: list[list[Sanity]] = [[] for _ in judged]
        tokens = [0] * len(judged)
        for number, person in enumerate(people):
            stages, asked = self._stages(person), self._asked(person)
            for place, condition in enumerate(CONDITIONS):
                reader = self._reader(condition, stages, asked)
                for index, stage in enumerate(stages):
                    done = place * len(stages) + index
                    progress(f"person {number + 1} of {len(people)}", done, len(CONDITIONS) * len(stages))
                    reader.read(stage.parts)
                    found = self._ask(reader, number, person, stage, asked)
                    judged[index].setdefault(condition, []).extend(found)
                    if isinstance(reader, SessionReader) and reader.learns and number < self._settings.sane:
                        sanity[index].append(check.measure(reader.memory()))
            tokens = [sum(pair) for pair in zip(tokens, (stage.tokens for stage in stages), strict=True)]
        distances = [
            Distance(windows, tokens[index] / len(people), judged[index], sanity[index])
            for index, windows in enumerate(self._settings.distances)
        ]
        return RecallResult(distances, check.repetition)

    def _stages(self, person: Person) -> list[_Stage]:
        transcript, filler, read = Transcript(self._chat), cycle(person.filler), 0
        transcript.exchange(person.told, GREETING)
        told, stages = transcript.tokens, []
        for windows in self._settings.distances:
            while transcript.tokens - told < windows * self._model.config.memory.window:
                transcript.exchange(*next(filler))
            prompts = [self._chat.question(question.text, transcript.last) for question in person.questions]
            stages.append(_Stage(transcript.parts[read:], transcript.tokens - told, prompts))
            read = len(transcript.parts)
        return stages

    def _asked(self, person: Person) -> _Asked:
        """Answers as ids; where a question asks for it, their likelihoods in a fresh chat."""
        fresh, priors = SessionReader(self._model, learn=False), []
        answers = [[self._chat.tokenizer.encode(text) for text in each.answers] for each in person.questions]
        for question, ids in zip(person.questions, answers, strict=True):
            prompt = self._chat.question(question.text, None)
            priors.append(fresh.judge(prompt, ids) if question.above_fresh else [0.0] * len(ids))
        return _Asked(answers, priors)

    def _reader(self, condition: str, stages: Sequence[_Stage], asked: _Asked) -> Reader:
        if condition != "ceiling":
            return SessionReader(self._model, learn=condition == "on")
        read = sum(len(ids) for stage in stages for _, ids in stage.parts)
        prompt = max(len(prompt) for stage in stages for prompt in stage.prompts)
        answer = max(len(ids) for answers in asked.answers for ids in answers)
        return self._ceiling(read + prompt + max(answer, ANSWER_TOKENS))

    def _ask(self, reader: Reader, number: int, person: Person, stage: _Stage, asked: _Asked) -> list[Judged]:
        distinct = list(dict.fromkeys(stage.prompts))
        said = reader.answer(distinct, ANSWER_TOKENS, self._chat.stop_ids)
        texts = {prompt: self._chat.tokenizer.decode(ids) for prompt, ids in zip(distinct, said, strict=True)}
        found = []
        for question, prompt, answers, priors in zip(
            person.questions, stage.prompts, asked.answers, asked.priors, strict=True
        ):
            nats = reader.judge(prompt, answers)
            scores = tuple(score - prior for score, prior in zip(nats, priors, strict=True))
            free = contains(texts[prompt], question.words)
            found.append(Judged(number, question.kind, scores, free))
        return found
