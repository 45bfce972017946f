"""How a call to a payment provider fails: a closed set, told apart by one question: may the work have been done?

| error | done? | what the caller does |
|---|---|---|
| Refused | no | tells who asked; the same call again is refused again |
| NotFound | no | the object is not there (any more) |
| RateLimited | no | waits `after_s`, then makes the same call with the same key |
| Away | no | the same; the provider, or our credentials for it, do not work |
| Ambiguous | perhaps | looks by reference, then makes the same call with the same key |
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

Kind = Literal["refused", "not_found", "rate_limited", "away", "ambiguous"]

UNSUPPORTED = "unsupported_by_provider"
"""The code of a refusal of what a provider does not have at all, see Provider.capabilities."""

MESSAGE_CHARS_MAX = 500
_CARD_NUMBER = re.compile(r"\d(?:[ -]?\d){11,18}")


class ProviderError(Exception):
    """`code` is for programs, the provider's own where it has one. Neither holds a secret or a card datum: providers repeat
    what they were sent, so what could be a card's number is left out."""

    kind: ClassVar[Kind]

    def __init__(self, code: str, message: str) -> None:
        super().__init__(_CARD_NUMBER.sub("[number]", message)[:MESSAGE_CHARS_MAX])
        self.code = code

    @property
    def message(self) -> str:
        """What a person reads."""
        return str(self.args[0])


class Refused(ProviderError):
    """The provider understood and said no; nothing was done. A declined card is one: code card_declined."""

    kind = "refused"


class NotFound(ProviderError):
    """What is named is not there; nothing was done."""

    kind = "not_found"


class RateLimited(ProviderError):
    """Too many calls, or another one for the same object under way; nothing was done."""

    kind = "rate_limited"

    def __init__(self, code: str, message: str, after_s: float = 1.0) -> None:
        super().__init__(code, message)
        self.after_s = after_s


class Away(ProviderError):
    """No connection, or credentials that are not taken; nothing was done. With `credentials` only an operator can help."""

    kind = "away"


class Ambiguous(ProviderError):
    """No answer, or one that does not say (5xx): the work may have been done.

    `ended`: the provider did answer, so the call is over and its key may replay this failure for ever. Then, and only then,
    may a caller that looked and found nothing go on with another key.
    """

    kind = "ambiguous"

    def __init__(self, code: str, message: str, *, ended: bool) -> None:
        super().__init__(code, message)
        self.ended = ended


def unsupported(what: str, instead: str) -> Refused:
    """The refusal of what the provider does not have; `instead`: the remedy."""
    return Refused(UNSUPPORTED, f"This payment provider has no {what}; {instead}")
