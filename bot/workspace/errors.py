"""The exceptions with which the workspace refuses a request."""

from typing import Any


class SlackError(Exception):
    """A refusal by Slack: an error code, and further fields of the answer's body."""

    def __init__(self, code: str, messages: list[str] | None = None, **extra: Any) -> None:
        super().__init__(code)
        self.code = code
        self.body: dict[str, Any] = {"ok": False, "error": code, **extra}
        if messages:
            self.body["response_metadata"] = {"messages": messages}


class RateLimited(SlackError):
    """Too many requests; `retry_after` is in whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("ratelimited")
        self.retry_after = retry_after


class BadRequest(Exception):
    """A request to `/_control/` that nobody in a Slack client could have made; the text is one sentence."""
