"""The proxy: one endpoint, POST /chat, that answers with a stream of server-sent events.

A chat, in order:

1. the user's token: the one that came along, or one that the authentication service issues for credentials;
2. the balance: a user who has nothing is told so before anything is begun;
3. a session that holds what the longest answer would cost; 402 where the credits do not suffice;
4. the model's tokens, passed on as they come, with a heartbeat now and then;
5. the end: `finalize` with what the model says it used; `abort` with what was passed on, where the client went away or the
   model failed. Either way the last thing that the user is charged for is the last thing that was generated.

A proxy that dies between 3 and 5 leaves a session that Meterline's sweeper ends: what the last heartbeat said is charged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import anyio
import httpx
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from examples.stand_ins.accounting import Accounting, Away, Refused
from examples.stand_ins.model import tokens_in

logger = logging.getLogger(__name__)

SETTLE_WITHIN_S: Final = 10.0
"""A client that went away does not wait for it; the process does."""


class Chat(BaseModel):
    """A message, and for those without a token who they are."""

    message: str = Field(max_length=100_000)
    max_tokens: int = Field(default=256, ge=1, le=4_096)
    username: str | None = None
    password: str | None = None


@dataclass(frozen=True)
class Addresses:
    """Of the three that the proxy speaks to."""

    accounting: str
    auth: str
    model: str


@dataclass
class Stream:
    """How far a chat is."""

    session_id: str
    input_tokens: int
    output_tokens: int = 0
    finished: bool = False
    answer: dict[str, Any] = field(default_factory=dict)


def create_proxy(addresses: Addresses, model_id: str, heartbeat_every_s: float = 30.0) -> FastAPI:
    """The proxy, for one model."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with (
            httpx.AsyncClient(base_url=addresses.accounting, timeout=5.0) as app.state.accounting,
            httpx.AsyncClient(base_url=addresses.auth, timeout=5.0) as app.state.auth,
            httpx.AsyncClient(base_url=addresses.model, timeout=60.0) as app.state.model,
        ):
            yield

    app = FastAPI(title="Chat proxy", lifespan=lifespan)

    @app.post("/chat")
    async def chat(asked: Chat, authorization: Annotated[str | None, Header()] = None) -> StreamingResponse:
        token = await _token(app.state.auth, asked, authorization)
        accounting = Accounting(app.state.accounting, token)
        stream = Stream(f"chat-{uuid.uuid4()}", tokens_in(asked.message))
        try:
            if await accounting.balance() <= 0:
                raise Refused(402, "insufficient_credits", "You have no credits left.")
            await accounting.initialize(stream.session_id, model_id, stream.input_tokens, asked.max_tokens)
        except Refused as refused:
            raise HTTPException(refused.status, {"code": refused.code, "message": str(refused)}) from None
        except Away:
            raise HTTPException(503, {"code": "accounting_away", "message": "Try again shortly."}) from None
        events = _events(app.state.model, accounting, asked, stream, heartbeat_every_s)
        return StreamingResponse(events, media_type="text/event-stream")

    return app


async def _token(auth: httpx.AsyncClient, asked: Chat, authorization: str | None) -> str:
    if authorization is not None:
        return authorization.removeprefix("Bearer ").strip()
    answer = await auth.post("/api/auth/login", json={"username": asked.username or "", "password": asked.password or ""})
    if answer.is_error:
        raise HTTPException(401, {"code": "not_signed_in", "message": "Send a token, or a user name and its password."})
    token: str = answer.json()["access_token"]
    return token


async def _events(
    model: httpx.AsyncClient, accounting: Accounting, asked: Chat, stream: Stream, heartbeat_every_s: float
) -> AsyncIterator[str]:
    beating = asyncio.create_task(_beat(accounting, stream, heartbeat_every_s))
    try:
        async with model.stream("POST", "/generate", json={"prompt": asked.message, "max_tokens": asked.max_tokens}) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                said = json.loads(line)
                if "token" in said:
                    stream.output_tokens += 1
                    yield _event("token", {"text": said["token"]})
                else:
                    stream.input_tokens, stream.output_tokens = said["usage"]["input"], said["usage"]["output"]
                    stream.finished = True
    except httpx.HTTPError as error:
        logger.warning("the model failed", extra={"error": str(error)})
    finally:
        beating.cancel()
        # The client may have gone, and this with it: what was generated is settled all the same.
        with anyio.CancelScope(shield=True), anyio.move_on_after(SETTLE_WITHIN_S):
            await _settle(accounting, stream)
    settled = stream.answer
    figures: dict[str, Any] = {
        name: str(settled[name]) for name in ("chargedCredits", "refundedCredits", "balance") if name in settled
    }
    yield _event("done" if stream.finished else "failed", {"sessionId": stream.session_id, **figures})


async def _settle(accounting: Accounting, stream: Stream) -> None:
    end = accounting.finalize if stream.finished else accounting.abort
    try:
        stream.answer = await end(stream.session_id, stream.input_tokens, stream.output_tokens)
    except (Refused, Away) as error:
        # Nothing is lost: the sweeper ends the session, and charges what the last heartbeat said.
        logger.warning("the session was not settled", extra={"session": stream.session_id, "error": str(error)})


async def _beat(accounting: Accounting, stream: Stream, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            await accounting.heartbeat(stream.session_id, stream.input_tokens, stream.output_tokens)
        except (Refused, Away) as error:
            logger.warning("no heartbeat", extra={"session": stream.session_id, "error": str(error)})


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
