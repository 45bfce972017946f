"""A stand-in for a language model: it streams tokens of a fixed text as lines of JSON, the last line with its usage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import cycle, islice

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

TEXT = ("every billable thing that happens is an immutable event", "a bill is a sum that can be proved")


class Asked(BaseModel):
    """A prompt, and how many tokens may come back at most."""

    prompt: str = Field(max_length=100_000)
    max_tokens: int = Field(default=64, ge=1, le=4_096)


def tokens_in(text: str) -> int:
    """How this model counts a text."""
    return len(text.split())


def create_model(token_every_s: float = 0.01) -> FastAPI:
    """The model; it takes `token_every_s` for each token."""
    app = FastAPI(title="Stand-in model")

    @app.post("/generate")
    async def generate(asked: Asked) -> StreamingResponse:
        # The answer is as long as the prompt wants it, as far as it may be: `... 7` asks for seven tokens.
        last = asked.prompt.split()[-1] if asked.prompt.split() else ""
        length = min(int(last) if last.isdecimal() and len(last) < 6 else 24, asked.max_tokens)

        async def lines() -> AsyncIterator[str]:
            for word in islice(cycle(" ".join(TEXT).split()), length):
                await asyncio.sleep(token_every_s)
                yield json.dumps({"token": word}) + "\n"
            yield json.dumps({"usage": {"input": tokens_in(asked.prompt), "output": length}}) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    return app
