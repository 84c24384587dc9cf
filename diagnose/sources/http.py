"""Questions put to the server over HTTP: does it say that it is well, and does it answer a real request.

The status codes are FastDeploy's own (fastdeploy/entrypoints/openai/api_server.py of 2.x): unhealthy is 404
with a body of its own, cleared weights are 304, an overload is 429; while a model loads nobody listens.
"""

from __future__ import annotations

import errno
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import anyio
import httpx

from diagnose.engine.repetition import score
from diagnose.model.observation import ProbeResult
from diagnose.profiles.fastdeploy import CANARY_PROMPT
from diagnose.sources.answer import Answered, read

if TYPE_CHECKING:
    from typing_extensions import Self

Answer = Literal["ok", "refused", "timeout", "unhealthy", "cleared", "missing", "busy", "error"]
CANARY = "diagnose-canary-"
MOST_TOKENS = 16

_UNHEALTHY = "Worker Service Not Healthy"
_KEY_CURE = "401: the server wants an API key. Set FD_API_KEY for diagnose as for the server."
_DETAIL_CHARACTERS = 300
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})
"""Errors that tell of this host or process, not of the server: no descriptor, memory or port to ask from."""


def plain_client(
    *,
    timeout: float,
    base_url: str = "",
    headers: Mapping[str, str] | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> httpx.AsyncClient:
    """Make a client for a server on this host: no proxy, no TLS, each question finds the door anew.

    Args:
        timeout: In seconds.
    """
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=timeout,
        headers=headers,
        transport=transport,
        trust_env=False,  # a proxy of the environment would answer in the server's place
        limits=httpx.Limits(max_keepalive_connections=0),
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # trusts nobody: the system's list would take 2 MB a client
    )


class _Probe:
    """What both probes share: one client, never through a proxy."""

    def __init__(
        self,
        *,
        target: str,
        base_url: str,
        timeout: timedelta,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.target, self._patience = target, timeout.total_seconds()
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = plain_client(base_url=base_url, timeout=self._patience, headers=headers, transport=transport)

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class HealthProbe(_Probe):
    """Asks ``GET /health``: fresh heartbeats of the workers, no more."""

    def __init__(
        self,
        *,
        target: str,
        base_url: str,
        timeout: timedelta = timedelta(seconds=5),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(target=target, base_url=base_url, timeout=timeout, transport=transport)

    async def ask(self, now: datetime, generation: int) -> ProbeResult:
        """Ask once. Never raises for what a server or network can do.

        Raises:
            OSError: It could not be asked, for want of descriptors or memory here.
        """
        began = time.perf_counter()
        answer, response, detail = await _tried(lambda: self._client.get("/health"))
        return ProbeResult(
            target=self.target, at=now, generation=generation, probe="health", answer=answer,
            status=response.status_code if response is not None else None,
            seconds=time.perf_counter() - began, detail=detail,
        )  # fmt: skip


class CompletionProbe(_Probe):
    """Asks for a few tokens: the only proof that requests are taken, scheduled and answered.

    Args:
        prompt: What is asked.
        model: The name to ask for; found out from ``/v1/models`` where it is not given.
        api_key: Sent as bearer; a secret, never logged.
    """

    def __init__(
        self,
        *,
        target: str,
        base_url: str,
        prompt: str = CANARY_PROMPT,
        model: str | None = None,
        api_key: str | None = None,
        timeout: timedelta = timedelta(seconds=30),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(target=target, base_url=base_url, timeout=timeout, api_key=api_key, transport=transport)
        self._prompt, self._fallback, self._model = prompt, model, ""

    async def ask(self, now: datetime, generation: int) -> ProbeResult:
        """Ask once, for at most 16 tokens. Never raises for what a server or network can do.

        Raises:
            OSError: It could not be asked, for want of descriptors or memory here.
        """
        began = time.perf_counter()
        request = _request(await self._model_name(), self._prompt)
        said = Answered()

        async def post() -> httpx.Response:
            nonlocal said
            with anyio.fail_after(self._patience):  # a stream that trickles is late too
                async with self._client.stream("POST", "/v1/chat/completions", json=request) as response:
                    if response.status_code == httpx.codes.OK:
                        said = await read(response, began)
                    else:
                        await response.aread()
                    return response

        answer, response, detail = await _tried(post)
        if answer == "ok" and (said.error or not said.tokens):
            lacking = "an answer without tokens: look into workerlog.0 and api_server.log"
            answer, detail = "error", _message(said.error or lacking)
        if response is not None and response.status_code >= 400:
            self._model = ""  # the next question looks the name up again
        return ProbeResult(
            target=self.target, at=now, generation=generation, probe="completion", answer=answer,
            status=response.status_code if response is not None else None,
            seconds=time.perf_counter() - began, detail=detail, tokens=said.tokens,
            first_token_seconds=said.first_seconds, repetition=score(said.text) if said.text else None,
        )  # fmt: skip

    async def _model_name(self) -> str:
        if not self._model:
            answer, response, _ = await _tried(lambda: self._client.get("/v1/models"))
            listed = _names(response) if answer == "ok" and response is not None else []
            if answer == "ok":
                wanted = self._fallback in listed or not listed
                self._model = (self._fallback or "default") if wanted else listed[0]
        return self._model or self._fallback or "default"


def _request(model: str, prompt: str) -> dict[str, object]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": MOST_TOKENS,
        "temperature": 0,
        "stream": True,  # when the first token comes tells how long requests wait
        "stream_options": {"include_usage": True},
        "user": f"{CANARY}{uuid.uuid4().hex[:12]}",  # FastDeploy makes it a part of the request's id
    }


async def _tried(ask: Callable[[], Awaitable[httpx.Response]]) -> tuple[Answer, httpx.Response | None, str]:
    """Put one question; return how it was answered, the response if there was one, and a detail."""
    try:
        response = await ask()
    except (httpx.TimeoutException, TimeoutError):
        return "timeout", None, "no answer in time"
    except httpx.ConnectError as error:
        if ours := next((one for one in _behind(error) if isinstance(one, OSError) and one.errno in _OURS), None):
            raise ours from error
        return "refused", None, "nobody listens: it loads, or it is dead"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return "error", None, f"{type(error).__name__}: {error}"[:_DETAIL_CHARACTERS]
    answer, detail = judge(response.status_code, response.text if response.status_code != httpx.codes.OK else "")
    return answer, response, detail


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """Yield what led to an error, and all members of groups among that."""
    if error is not None:
        yield error
        yield from _behind(error.__cause__ or error.__context__)
        for one in getattr(error, "exceptions", ()):
            yield from _behind(one)


def judge(status: int, body: str) -> tuple[Answer, str]:
    """Tell what a status and its body mean, and a detail for what is not well.

    >>> judge(404, "Worker Service Not Healthy")[0], judge(404, '{"detail":"Not Found"}')[0]
    ('unhealthy', 'missing')
    """
    if status == 200:
        return "ok", ""
    if status == 304:
        return "cleared", "no model weights are loaded"
    if status == 404:
        return ("unhealthy" if _UNHEALTHY in body else "missing"), _message(body)
    if status == 429:
        return "busy", _message(body)
    return "error", _KEY_CURE if status == 401 else _message(body)


def _message(body: str) -> str:
    return " ".join(body.split())[:_DETAIL_CHARACTERS]


def _names(response: httpx.Response) -> list[str]:
    read = _json(response)
    rows = read.get("data") if isinstance(read, Mapping) else None
    return (
        [str(row["id"]) for row in rows if isinstance(row, Mapping) and "id" in row] if isinstance(rows, list) else []
    )


def _json(response: httpx.Response) -> object:
    try:
        return response.json()
    except ValueError:
        return None
