"""The verified principal as a FastAPI dependency: `principal: Annotated[Principal, Depends(principal_of)]`."""

from __future__ import annotations

from fastapi import Request

from access.principals import Principal
from access.verifiers import Gate


async def principal_of(request: Request) -> Principal:
    """Who asks. The application keeps its Gate in `app.state.gate`; AccessRefused is for its error handler."""
    gate = request.app.state.gate
    assert isinstance(gate, Gate)
    return await gate.principal(request.scope["headers"])
