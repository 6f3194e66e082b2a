"""What a provider's refusal becomes: its status and message, without anything of ours in it.

The rule: 401, 403, 404, 429 and 5xx keep their status, because clients act on it; any other
answer to an upgrade request is a 502. Our key never leaves, masked forms of it included.
"""

import re

from relay_app import codec
from relay_app.errors import UpstreamFault
from relay_app.upstream.retry_after import retry_after_seconds

__all__ = ["refusal", "scrubbed"]

MAX_MESSAGE_CHARACTERS = 500
_ACCOUNT = re.compile(
    r"\b(?:sk|ek|rk|sess)-[\w*.-]{4,}|\b(?:org|proj|user)[-_][\w*]{6,}"
    r"|(?<![\w-])[\w-]*+\*{3,}[\w*-]*"
)
"""Providers quote keys back partly masked, and name the organization and project they bill. No
character is tried twice: a word without an end would take the square of its length."""


def scrubbed(text: str, secret: str) -> str:
    """``text`` without ``secret`` and without what looks like a key or an account."""
    if secret:
        text = text.replace(secret, "[redacted]")
    return _ACCOUNT.sub("[redacted]", text)


def refusal(
    upstream: str, status: int, headers: dict[str, str], body: bytes, secret: str
) -> UpstreamFault:
    """The fault that stands for an HTTP answer other than 101."""
    fault = _refusal(upstream, status, headers, body, secret)
    fault.answered = status
    return fault


def _refusal(
    upstream: str, status: int, headers: dict[str, str], body: bytes, secret: str
) -> UpstreamFault:
    try:
        answer = codec.loads_object(body)
    except ValueError:
        answer = {}
    error = answer.get("error")
    if not isinstance(error, dict):
        error = answer  # some providers have the fields at the top

    def text(name: str) -> str | None:
        value = error.get(name)
        if not isinstance(value, str):
            return None
        # JSON can spell half of a surrogate pair, which no answer of ours could.
        encodable = value.encode("utf-8", "replace").decode()
        return scrubbed(encodable, secret)[:MAX_MESSAGE_CHARACTERS]

    said = text("message")
    keeps = status in (401, 403, 404, 429) or 500 <= status <= 599
    if not keeps:
        reason = f": {said}" if said else ""
        return UpstreamFault(
            f"The upstream {upstream} answered {status} to the WebSocket upgrade{reason}",
            status=502,
            code="upstream_bad_answer",
        )
    wait = headers.get("retry-after", "")
    plain = re.fullmatch(r"[A-Za-z0-9 ,:+-]{1,64}", wait) and scrubbed(wait, secret) == wait
    tells = plain and retry_after_seconds(wait, 0.0) is not None
    passed_on = {"Retry-After": wait} if tells else {}
    return UpstreamFault(
        said or f"The upstream {upstream} refused the connection with status {status}.",
        status=status,
        code=text("code") or "upstream_refused",
        type=text("type"),
        param=text("param"),
        headers=passed_on,
    )
