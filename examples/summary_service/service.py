"""The service: POST /summaries with the user's token answers with the first words of a text, and takes credits for it.

1. the user's balance, so that nothing is begun for somebody who has nothing;
2. what the work would cost, by Meterline's prices, and whether the user has as much;
3. the work;
4. the charge, recorded under a key of the piece of work: sent twice, it is taken once;
5. the answer, with what the user has now.

Nothing is held between 2 and 4. Where others may spend the same credits meanwhile, use a session, as the chat proxy does.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Final

import httpx
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel, Field

from examples.stand_ins.accounting import Accounting, Away, Refused
from examples.stand_ins.model import tokens_in

SERVICE: Final = "summary-service"
OPERATION: Final = "summarize"
WORDS_MAX: Final = 12


class Text(BaseModel):
    """What is to be summed up. `work_id` names the piece of work: a client that asks again sends the same."""

    text: str = Field(max_length=100_000)
    work_id: str = Field(default_factory=lambda: str(uuid.uuid4()), max_length=200)


class Summary(BaseModel):
    """The summary, what it has cost, and what is left. Credits are decimal strings, so that they stay exact."""

    summary: str
    credits: str
    balance: str


def create_service(accounting_address: str, model_id: str) -> FastAPI:
    """The service; it charges by the tokens of that model."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=accounting_address, timeout=5.0) as app.state.accounting:
            yield

    app = FastAPI(title="Summary service", lifespan=lifespan)

    @app.post("/summaries")
    async def summarize(asked: Text, authorization: Annotated[str, Header()]) -> Summary:
        accounting = Accounting(app.state.accounting, authorization.removeprefix("Bearer ").strip())
        try:
            return await _summarize(accounting, asked, model_id)
        except Refused as refused:
            raise HTTPException(refused.status, {"code": refused.code, "message": str(refused)}) from None
        except Away:
            raise HTTPException(503, {"code": "accounting_away", "message": "Send the same again shortly."}) from None

    return app


async def _summarize(accounting: Accounting, asked: Text, model_id: str) -> Summary:
    if await accounting.balance() <= 0:
        raise Refused(402, "insufficient_credits", "You have no credits left.")
    output = min(tokens_in(asked.text), WORDS_MAX)
    cost = await accounting.calculate(modelId=model_id, tokens={"input": tokens_in(asked.text), "output": output})
    if not await accounting.suffices(cost):
        raise Refused(402, "insufficient_credits", f"This takes {cost} credits, and you have less.")
    summary = " ".join(asked.text.split()[:output])
    recorded = await accounting.record(asked.work_id, SERVICE, OPERATION, cost, {"modelId": model_id})
    return Summary(summary=summary, credits=str(recorded["credits"]), balance=str(recorded["balance"]))
