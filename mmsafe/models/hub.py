"""One quick question to the hub."""

from __future__ import annotations


def reachable(name: str) -> bool:
    """Whether `name` is in the local cache or can be had; loaders would ask for half a minute before they give up."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the client that the hub library uses

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return True
        HfApi().model_info(name, timeout=10)
    except (httpx.HTTPError, HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError):
        return False
    return True
