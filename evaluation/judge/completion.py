"""One chat completion over HTTP, of an endpoint that is not trusted.

The key goes to the origin of `base_url` and nowhere else: no redirect is followed, plain http passes no proxy, and
what a server sends back is cleared of the key before it is kept or shown. A request ends at a deadline, however slowly
bytes come, and after so many of them, however fast.
"""

import base64
import io
import json
import ssl
import time
import urllib.request
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, responses
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from unimoe.errors import UniMoEError
from unimoe.errors.visible import visible
from unimoe.files.strict_json import parse_json

from ..errors import EvaluationError
from .endpoint import JudgeConfig

ANSWER_BYTES = 4 * 2**20
"""Longest answer of an endpoint, bytes: a thousand times that of a judge."""
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""HTTP states that may pass."""


class RequestFailedError(Exception):
    """A request without a reply.

    Args:
        problem: In words; cleared of the key.
        passing: Whether a later one may fare better.
    """

    def __init__(self, problem: str, *, passing: bool) -> None:
        super().__init__(problem)
        self.passing = passing


def complete(config: JudgeConfig, key: str | None, prompt: str, *, deadline: float) -> str:
    """Ask for one reply to a prompt, decoded greedily.

    Args:
        config: Of the endpoint.
        key: Of `read_key`.
        prompt: Of the only turn.
        deadline: On the clock of `time.monotonic`, s.

    Raises:
        RequestFailedError: If there is none.
    """
    body = {"model": config.model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
    try:
        raw = _post(config, key, json.dumps(body).encode(), deadline)
        return _cleared(_content(raw), key)
    except UniMoEError as error:
        raise RequestFailedError(_shown(error, key), passing=False) from None
    except TimeoutError:
        raise RequestFailedError(f"no whole answer within {config.timeout:g} s", passing=False) from None
    except OSError as error:
        raise RequestFailedError(_shown(error, key), passing=True) from None
    except HTTPException as error:  # its text is what the server sent
        raise RequestFailedError(f"no answer in HTTP ({type(error).__name__})", passing=True) from None
    except ValueError:  # its text may hold a password
        raise RequestFailedError(
            "the endpoint's address, or that of the proxy in https_proxy, is malformed (not shown: it may hold a "
            "password). Write http://user:password@host:port, with special characters as %2F",
            passing=False,
        ) from None


def _post(config: JudgeConfig, key: str | None, body: bytes, deadline: float) -> bytes:
    """Send a request, and return the answer if it is a success."""
    address = urlsplit(config.base_url)
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "Connection": "close"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    connection = _connect(address, deadline)
    try:
        connection.request("POST", f"{address.path.rstrip('/')}/chat/completions", body, headers)
        return _read(connection.getresponse(), key)
    finally:
        connection.close()


def _read(response: HTTPResponse, key: str | None) -> bytes:
    """Read the bytes of an answer, no more than `ANSWER_BYTES`."""
    status = response.status
    if 300 <= status < 400:
        target = _origin(response.getheader("Location", ""))
        target = "" if key and key.lower() in target.lower() else _shown(target, key)
        raise RequestFailedError(
            f"HTTP {status}, a redirect{target}, which is not followed: set judge.base_url to where the endpoint is",
            passing=False,
        )
    if status != 200:
        raise RequestFailedError(f"HTTP {status} {responses.get(status, '')}".strip(), passing=status in _PASSING)
    if response.getheader("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise RequestFailedError("the answer is compressed, which was not asked for", passing=False)
    raw = response.read(ANSWER_BYTES + 1)
    if len(raw) > ANSWER_BYTES:
        raise RequestFailedError(f"the answer is longer than {ANSWER_BYTES:,} bytes", passing=False)
    return raw


def _content(raw: bytes) -> str:
    """Read the text of the first choice of a chat completion; empty where the model refused to write one."""
    found = parse_json(raw, where="its answer")
    choices = found.get("choices") if isinstance(found, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    content = message.get("content", 0) if isinstance(message, dict) else 0
    if content is not None and not isinstance(content, str):
        raise EvaluationError("its answer is not a chat completion: there is no text at choices[0].message.content")
    return content or ""


class _TimedReader(io.RawIOBase):
    """Bytes of a connection until a deadline: the timeout of a socket begins anew with each byte."""

    def __init__(self, response: io.BufferedReader, connection: Any, deadline: float) -> None:
        self._inner, self._connection, self._deadline = response.detach(), connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connection.settimeout(_left(self._deadline))
        return self._inner.readinto(buffer)

    def close(self) -> None:
        self._inner.close()
        super().close()


class _TimedResponse(HTTPResponse):
    """An answer that is there before a deadline, or not at all."""

    def __init__(self, connection: Any, *args: Any, deadline: float, **options: Any) -> None:
        super().__init__(connection, *args, **options)
        self.fp = io.BufferedReader(_TimedReader(self.fp, connection, deadline))


def _connect(address: SplitResult, deadline: float) -> HTTPConnection:
    """Connect to an endpoint: directly, or for https through the proxy of the environment, which sees no key."""
    host, left = str(address.hostname), _left(deadline)
    connection: HTTPConnection
    if address.scheme == "http":
        connection = HTTPConnection(host, address.port or 80, timeout=left)
    else:
        context, proxy = ssl.create_default_context(), urllib.request.getproxies().get("https")
        if proxy is None or urllib.request.proxy_bypass(host):
            connection = HTTPSConnection(host, address.port or 443, timeout=left, context=context)
        else:
            through = urlsplit(proxy if "//" in proxy else f"//{proxy}")
            connection = HTTPSConnection(str(through.hostname), through.port or 80, timeout=left, context=context)
            connection.set_tunnel(host, address.port or 443, headers=_proxy_headers(through))
    connection.response_class = partial(_TimedResponse, deadline=deadline)  # type: ignore[assignment]
    return connection


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}


def _left(deadline: float) -> float:
    """Count the seconds until a deadline.

    Raises:
        TimeoutError: If there are none.
    """
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return left


def _origin(location: str) -> str:
    """Say where a redirect leads, without path, user and password."""
    try:
        parts = urlsplit(location)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    return f" to {parts.scheme}://{parts.hostname}{port}" if parts.scheme and parts.hostname else ""


def _cleared(text: str, key: str | None) -> str:
    """Clear a text of the server of the key, which `read_key` found long enough to be no word."""
    return text.replace(key, "(key)") if key else text


def _shown(said: object, key: str | None) -> str:
    """Shorten an error or a header for a message: a line without the key, that no terminal obeys."""
    return visible(_cleared(str(said), key).replace("\n", " "))[:300]


__all__ = ["ANSWER_BYTES", "RequestFailedError", "complete"]
