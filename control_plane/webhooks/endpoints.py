"""POST /api/webhooks/stripe, /clerk, /lago: their signature is their credential."""

from __future__ import annotations

import time

import anyio.to_thread
from fastapi import Request

from control_plane.http.envelope import Answer, success
from control_plane.http.routes import OPEN, Routes
from control_plane.webhooks import service
from control_plane.webhooks.messages import Source

routes = Routes("webhooks")


@routes.post("/api/webhooks/stripe", OPEN)
async def stripe(request: Request) -> Answer:
    """An event of Stripe, whole or thin."""
    return await _take(request, "stripe")


@routes.post("/api/webhooks/clerk", OPEN)
async def clerk(request: Request) -> Answer:
    """An event of Clerk, signed by Svix."""
    return await _take(request, "clerk")


@routes.post("/api/webhooks/lago", OPEN)
async def lago(request: Request) -> Answer:
    """An event of Lago, signed with its hmac algorithm."""
    return await _take(request, "lago")


async def _take(request: Request, source: Source) -> Answer:
    parts = request.app.state.parts
    headers = {name.lower(): value for name, value in request.headers.items()}
    body = await request.body()
    # In a thread: it waits for a commit.
    taken = await anyio.to_thread.run_sync(service.receive, parts.units, parts.settings, source, headers, body, time.time())
    return success({"id": taken.message_id, "repeated": taken.repeated})
