"""Meterline's accounting endpoints as a service calls them for a user: with the user's own token, numbers exact."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final

import httpx

TRIES: Final = 3
"""Each call here may be repeated: a session ends once, and recorded usage has a key."""


class Refused(Exception):
    """The endpoint said no. `status` is HTTP's; `code` is for programs, the message for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Away(Exception):
    """It did not answer, and was asked again in vain. What became of the call is not known."""


class Accounting:
    """For one user: whoever the token is of pays."""

    def __init__(self, client: httpx.AsyncClient, token: str) -> None:
        """`client` has the address of the control plane as its base."""
        self._client = client
        self._headers = {"Authorization": f"Bearer {token}"}

    async def balance(self) -> Decimal:
        """What the user may spend. Raises Refused, Away."""
        return Decimal((await self._ask("GET", "/api/credits/balance"))["balance"])

    async def calculate(self, **what: Any) -> Decimal:
        """What tokens of a model, or an operation, cost."""
        return Decimal((await self._ask("POST", "/api/credits/calculate", what))["credits"])

    async def suffices(self, credits: Decimal) -> bool:
        """Whether the user has so much now. Only holding or charging it makes sure."""
        return bool((await self._ask("POST", "/api/credits/check", {"requiredCredits": str(credits)}))["sufficient"])

    async def initialize(self, session_id: str, model_id: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
        """Holds what so many tokens cost."""
        estimated = {"input": input_tokens, "output": output_tokens}
        body = {"sessionId": session_id, "modelId": model_id, "estimatedTokens": estimated}
        return await self._ask("POST", "/api/streaming-sessions/initialize", body)

    async def heartbeat(self, session_id: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
        """Keeps the session alive, and says how far it is."""
        body = {"sessionId": session_id, "tokensGenerated": {"input": input_tokens, "output": output_tokens}}
        return await self._ask("POST", "/api/streaming-sessions/heartbeat", body)

    async def finalize(self, session_id: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
        """Charges what was used and gives the rest back."""
        body = {"sessionId": session_id, "actualTokens": {"input": input_tokens, "output": output_tokens}}
        return await self._ask("POST", "/api/streaming-sessions/finalize", body)

    async def abort(self, session_id: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
        """Charges what was generated before the stream was cut off, and gives the rest back."""
        body = {"sessionId": session_id, "tokensGenerated": {"input": input_tokens, "output": output_tokens}}
        return await self._ask("POST", "/api/streaming-sessions/abort", body)

    async def record(self, key: str, service: str, operation: str, credits: Decimal, metadata: dict[str, Any]) -> dict[str, Any]:
        """Records a piece of work that is done, and charges it, once for the key."""
        body = {"service": service, "operation": operation, "credits": str(credits), "metadata": metadata}
        return await self._ask("POST", "/api/usage/record", body, {"Idempotency-Key": key})

    async def _ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> dict[str, Any]:
        error = ""
        for _ in range(TRIES):
            try:
                answer = await self._client.request(method, path, json=body, headers={**self._headers, **(headers or {})})
            except httpx.TransportError as raised:
                error = str(raised) or type(raised).__name__
                continue
            document = json.loads(answer.content, parse_float=Decimal)
            if answer.status_code == 503:
                error = document["error"]["message"]
                continue
            if answer.is_error:
                raise Refused(answer.status_code, document["error"]["code"], document["error"]["message"])
            data: dict[str, Any] = document["data"]
            return data
        raise Away(error)
