"""OpenAI-compatible chat endpoints: the options by which one is reached, shared by judges and by what answers."""

import ipaddress
import os
from importlib.util import find_spec
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from mmsafe.core.options import Count, Positive, options


@options
class Endpoint:
    """Where a model is served, and how hard it is pressed. What is here changes no answer, `model` excepted."""

    base_url: str
    model: str
    """The model's name at the endpoint. Kept answers are found by it: give each checkpoint a name of its own."""
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: Count = 8
    timeout: Positive = 120.0
    """Seconds that a request may take as a whole; each retry has as many."""
    max_retries: Annotated[int, Field(ge=0)] = 5
    """How often a request is repeated after 408, 409, 429, 5xx, a time-out or a closed connection; the wait is what
    the server asks for, or doubles each time, with jitter."""
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("base_url must begin with http:// or https:// and a host, as in http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("base_url must hold no credentials and no query: the key comes from api_key_env")
        if find_spec("openai") is None:
            raise ValueError("openai is not installed; run pip install 'mmsafe[judge]'")
        if not self.key and not _is_this_machine(parts.hostname):
            raise ValueError(f"{parts.hostname} needs a key: set the environment variable {self.api_key_env}")

    @property
    def key(self) -> str:
        """The secret, from the environment; empty where there is none."""
        return os.environ.get(self.api_key_env, "")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
