"""Likelihoods from an OpenAI-compatible server: prompts of token ids, echoed with their log-probabilities."""

import math
from collections.abc import Sequence
from typing import Any

import httpx

from hope_model.errors import EvaluationError
from hope_model.evaluate.tasks.scorer import Judged, Likelihood

TIMEOUT_S = 600.0
_ROUNDING = 1e-3
"""Nats by which a server may say that a token is more than certain."""


class RemoteScorer:
    """``/v1/completions`` with ``echo``, and ``/tokenize`` and ``/tokenizer_info`` beside it, as vLLM has
    them.

    Args:
        url: the server's address, with or without ``/v1``.
        model: as the server names it.
        client: asks; the caller closes it.
        key: sent as a bearer token.
        prefix: id of the token before a text; None asks the server for the one that begins or ends a text.
    """

    def __init__(
        self,
        url: str,
        model: str,
        client: httpx.Client,
        *,
        key: str | None = None,
        prefix: int | None = None,
    ) -> None:
        self._base = url.strip().rstrip("/").removesuffix("/v1")
        self._model, self._prefix = model, prefix
        self._client = client
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def encode(self, text: str) -> list[int]:
        answer = self._post("/tokenize", {"prompt": text, "add_special_tokens": False})
        tokens = answer.get("tokens")
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise EvaluationError(f"{self._base}/tokenize: expected 'tokens', found {str(answer)[:200]}")
        return tokens

    def prefix(self) -> int:
        if self._prefix is None:
            info = self._get("/tokenizer_info")
            text = info.get("bos_token") or info.get("eos_token")
            ids = self.encode(text) if isinstance(text, str) else []
            if len(ids) != 1:
                raise EvaluationError(
                    f"{self._base}: expected what begins or ends a text to be one token, found {text!r} as "
                    f"{ids}; name its id with --prefix-token"
                )
            self._prefix = ids[0]
        return self._prefix

    def score(self, batch: Sequence[Judged]) -> list[Likelihood]:
        asked = {"prompt": [list(one.ids) for one in batch], "echo": True, "logprobs": 1, "max_tokens": 1}
        answer = self._post("/v1/completions", {**asked, "temperature": 0, "seed": 1234})
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            return [_likelihood(choice["logprobs"], one) for choice, one in zip(choices, batch, strict=True)]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise EvaluationError(
                f"{self._base}/v1/completions: expected log-probabilities of {len(batch)} echoed prompts, "
                f"found {str(answer)[:200]} ({error!r})"
            ) from error

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._answer("POST", path, json={"model": self._model, **body})

    def _get(self, path: str) -> dict[str, Any]:
        return self._answer("GET", path)

    def _answer(self, method: str, path: str, **content_of: Any) -> dict[str, Any]:
        """Raises EvaluationError: a URL or key that cannot be sent, too, and JSON of too many levels."""
        try:
            response = self._client.request(method, self._base + path, headers=self._headers, **content_of)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise EvaluationError(f"{self._base}{path}: no answer that can be read: {error!r}") from error
        try:
            content = response.json()
        except (ValueError, RecursionError) as error:
            raise EvaluationError(
                f"{self._base}{path}: no answer that can be read: status {response.status_code}, {error!r}"
            ) from error
        if response.status_code != 200 or not isinstance(content, dict):
            raise EvaluationError(
                f"{self._base}{path}: expected status 200, found {response.status_code}: {str(content)[:300]}"
            )
        return content


def _likelihood(logprobs: dict[str, Any], one: Judged) -> Likelihood:
    """The last of ``token_logprobs`` is the generated token's."""
    judged = slice(len(one.ids) - one.count, len(one.ids))
    values, tops = logprobs["token_logprobs"][judged], logprobs["top_logprobs"][judged]
    if len(values) != one.count:
        raise ValueError(f"{len(values)} log-probabilities for {one.count} tokens")
    nats = float(sum(values))
    if not math.isfinite(nats) or max(values) > _ROUNDING:
        raise ValueError("log-probabilities that are none")
    greedy = all(max(top.values()) == value for value, top in zip(values, tops, strict=True))
    return Likelihood(nats, greedy)
