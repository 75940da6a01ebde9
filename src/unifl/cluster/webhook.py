"""Tells a chat room or a pager how a run ended: one JSON object, posted to an address that only the pod knows.

The address is a secret and comes from the environment; it is never printed, because many services put their token into
it. A message that can't be delivered fails nothing.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

URL_VARIABLE = "UNIFL_WEBHOOK_URL"

SENT, NO_WEBHOOK = "sent", "no webhook"

LONGEST_WAIT_SECONDS = 60.0
"""Between two attempts, also when the server's Retry-After asks for more: the run's last task waits for this."""

_RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)
"""Answers that a later attempt may change; any other refusal is final."""


def post_to_webhook(
    message: Mapping[str, Any], *, retries: int = 5, wait_factor_seconds: float = 1.0, timeout_seconds: float = 10.0
) -> str:
    """Post `message` as JSON to the address in $UNIFL_WEBHOOK_URL.

    Args:
        message: what is posted; it must be JSON.
        retries: attempts after the first, for connections that fail and for answers like 429 or 503.
        wait_factor_seconds: the wait before the third attempt is twice this, and doubles from there to
            LONGEST_WAIT_SECONDS; the second follows at once. A Retry-After of the server goes before that.
        timeout_seconds: for connecting, and for each answer.

    Returns SENT, NO_WEBHOOK without an address, or one line that says why it was not delivered; of the address that
    line holds the host alone. Nothing is raised for a webhook that fails.
    """
    url = os.environ.get(URL_VARIABLE, "").strip()
    if not url:
        return NO_WEBHOOK
    host = _host(url)
    if host is None:
        return f"{URL_VARIABLE} holds no http address"

    import urllib3

    policy = urllib3.Retry(
        total=retries,
        redirect=0,
        backoff_factor=wait_factor_seconds,
        backoff_max=LONGEST_WAIT_SECONDS,
        retry_after_max=int(LONGEST_WAIT_SECONDS),
        status_forcelist=_RETRIED_STATUS,
        allowed_methods=None,  # a POST, too: the same message twice is better than none
    )
    # urllib3's own warnings name the address of every attempt.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    try:
        with urllib3.PoolManager(retries=policy, timeout=urllib3.Timeout(timeout_seconds)) as pool:
            answer = pool.request(
                "POST",
                url,
                body=json.dumps(message, allow_nan=False).encode(),
                headers={"Content-Type": "application/json"},
            )
    except urllib3.exceptions.MaxRetryError as error:
        reason = error.reason
        said = str(reason) if isinstance(reason, urllib3.exceptions.ResponseError) else type(reason).__name__
        return f"the webhook at {host} did not take the message after {retries + 1} attempts: {said}"
    except urllib3.exceptions.HTTPError as error:
        return f"the webhook at {host} can't be called: {type(error).__name__}"
    if answer.status >= 300:
        return f"the webhook at {host} refused the message: HTTP {answer.status}"
    return SENT


def _host(url: str) -> str | None:
    """The host of an http address; None for anything else."""
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        return None
