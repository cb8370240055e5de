"""An endpoint that speaks OpenAI's chat completions: its address, and the variable of its key."""

import ipaddress
import os
import re
from typing import Any, Self
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from unimoe.files.settings import Section

from ..errors import EvaluationError

SHORTEST_KEY = 8
"""Characters; what is shorter could not be cleared from texts, where it may be a word or a grade."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


class JudgeConfig(Section):
    """The endpoint of a judge.

    Args:
        base_url: Such as `http://localhost:8000/v1`; `/chat/completions` is appended. No user, password, query.
        model: Name of the model there.
        api_key: Name of the environment variable that holds the key. None: none is sent.
        plain_http: Whether the key may go unencrypted to another machine.
        workers: Requests at a time.
        timeout: Of a grade, with all tries, s.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: str
    model: str
    api_key: str | None = None
    plain_http: bool = False
    workers: int = Field(default=4, ge=1)
    timeout: float = Field(default=120.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_may_hold_secrets(cls, values: Any) -> Any:
        """Refuse these here: pydantic's own refusals repeat what was given."""
        if not isinstance(values, dict):
            raise _refused("write 'base_url' and 'model' below 'judge'.")
        for key in ("base_url", "api_key"):
            if not isinstance(values.get(key), str | None):
                raise _refused(f"{key!r} must be a text.")
        return values

    @field_validator("base_url")
    @classmethod
    def _check_address(cls, address: str) -> str:
        if problem := _misfit(address):
            raise _refused(f"{problem} Write such as https://host/v1; it is not shown here, for it may hold a secret.")
        return address

    @field_validator("api_key")
    @classmethod
    def _check_variable(cls, name: str | None) -> str | None:
        if name is not None and not _VARIABLE.fullmatch(name):
            raise _refused(
                "no name of an environment variable (not shown: it may be a key). Put the key into a variable, and "
                "its name here."
            )
        return name

    @model_validator(mode="after")
    def _refuse_an_open_key(self) -> Self:
        address = urlsplit(self.base_url)
        if self.api_key and address.scheme == "http" and not self.plain_http and not _is_loopback(address):
            raise _refused(
                f"the key would go to {address.hostname} unencrypted. Take https, leave 'api_key' out, or allow it "
                "with 'plain_http: true'."
            )
        return self


def read_key(config: JudgeConfig) -> str | None:
    """Read the key of an endpoint, without white space around it. None: it needs none.

    Raises:
        EvaluationError: If the variable is not set or holds no key; it names the variable and never the value.
    """
    name = config.api_key
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        known = name if name.isupper() else "(a name that is not shown: it may be a key)"
        state = "which is empty" if name in os.environ else "which is not set"
        raise EvaluationError(f"judge.api_key names the environment variable {known}, {state}.")
    if not all("!" <= letter <= "~" for letter in key):
        raise EvaluationError(
            f"judge.api_key: the value of the environment variable {name} is no key: it holds a space, a line break, "
            "a control character, or a letter outside of ASCII. Set it anew."
        )
    if len(key) < SHORTEST_KEY:
        raise EvaluationError(
            f"judge.api_key: the value of the environment variable {name} is no key: it is shorter than "
            f"{SHORTEST_KEY} characters. Set it anew, or leave 'api_key' out if the endpoint needs none."
        )
    if key.lower() in unquote(config.base_url).lower():
        raise EvaluationError(
            "judge.base_url holds the key that 'api_key' names, and addresses are shown and kept. Take it out there."
        )
    return key


def _misfit(address: str) -> str | None:
    """Say why something cannot be an endpoint's address, without repeating it."""
    if not all("!" <= letter <= "~" for letter in address):
        return "holds a space, a control character, or a letter outside of ASCII."
    try:
        parts = urlsplit(address)
        _ = parts.port
        (parts.hostname or "").encode("idna")  # no empty label, none of more than 63 characters
    except ValueError:
        return "is no address."
    if "@" in parts.netloc:
        return "holds a user or a password; a key goes into the variable that 'api_key' names."
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "is no address of http or https."
    if parts.query or parts.fragment or "?" in address or "#" in address:
        return "holds a query or a fragment; a key goes into the variable that 'api_key' names."
    return None


def _is_loopback(address: SplitResult) -> bool:
    host = str(address.hostname)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _refused(why: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{why}", {"why": why})


__all__ = ["SHORTEST_KEY", "JudgeConfig", "read_key"]
