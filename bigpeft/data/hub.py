"""Whether the Hugging Face hub can be asked, so that a machine without network fails at once."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def is_hub_name(name: str) -> bool:
    """Whether `name` reads as org/name."""
    return _NAME.fullmatch(name) is not None


def hub_is_reachable(timeout: float = 3.0) -> bool:
    """False when HF_HUB_OFFLINE is set or no connection opens within `timeout` seconds.

    The hub's own clients try five times with growing pauses, 46 s on a node without network.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout).close()
    except OSError:
        return False
    return True


@contextmanager
def without_network() -> Iterator[None]:
    """The hub's libraries look only into their caches meanwhile, as under HF_HUB_OFFLINE=1."""
    from datasets import config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before
