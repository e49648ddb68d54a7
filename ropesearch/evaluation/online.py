"""Whether the network is there, found out at once: the libraries try again and again, for half a minute a file."""

import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies

SECONDS = 5.0


@cache
def answers(host: str) -> bool:
    """Whether a host can be reached; behind a proxy, which alone could tell, it counts as reached."""
    if "https" in getproxies():
        return True
    try:
        with socket.create_connection((host, 443), timeout=SECONDS):
            return True
    except OSError:
        return False


def hub_answers() -> bool:
    """Whether to ask for a data set of the hub: it is there, or the user says offline and only the cache is asked."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE or answers(urlsplit(constants.ENDPOINT).hostname or "")
