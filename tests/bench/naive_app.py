"""What a team writes in an afternoon: `python -m tests.bench.naive_app`, a FastAPI route with one SQL statement a request.

It reads the same tables as the endpoint, and has no credentials, no limits, no logs, no overrides, holds or grants. The
address of Postgres comes in METERLINE_POSTGRES_URL.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import uvicorn
from fastapi import FastAPI
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

PATH = "/check"
POOL = 8

_SQL = """
SELECT l.quantity, l.hard, coalesce((SELECT sum(c.quantity) FROM usage_counters c
         WHERE c.tenant_id = t.tenant_id AND c.usage_type = l.usage_type
           AND c.day >= date_trunc('month', now())::date AND c.day < (date_trunc('month', now()) + interval '1 month')::date), 0)
  FROM tenants t JOIN plan_limits l ON l.plan_id = t.plan_id AND l.usage_type = %s
 WHERE t.tenant_id = %s AND t.status = 'active'
"""


class Question(BaseModel):
    """The body."""

    tenantId: str
    usageType: str
    quantity: Decimal = Decimal(1)


def app_of(url: str) -> FastAPI:
    pool = AsyncConnectionPool(url, min_size=POOL, max_size=POOL, open=False, kwargs={"autocommit": True})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post(PATH)
    async def check(question: Question) -> dict[str, object]:
        async with pool.connection() as connection:
            cursor = await connection.execute(_SQL, (question.usageType, question.tenantId))
            row = await cursor.fetchone()
        if row is None:
            return {"allowed": False, "remaining": 0, "reason": "not_in_plan"}
        limit, hard, used = row
        within = used + question.quantity <= limit
        return {
            "allowed": within or not hard,
            "remaining": max(limit - used, 0),
            "reason": "within_plan" if within else "exceeded",
        }

    return app


def main(url: str) -> None:
    """Serves until it is ended; writes the port, and a line's end, when it listens."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(app_of(url), log_config=None, access_log=False)).run(sockets=[listener])


if __name__ == "__main__":
    main(os.environ["METERLINE_POSTGRES_URL"])
