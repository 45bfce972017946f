"""`python -m examples.summary_service`: the service on this machine until Ctrl-C, for tokens of the chat proxy's sign-in."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import uvicorn

from examples.summary_service.service import create_service

PORT = 4004


def main() -> None:
    """Blocks until Ctrl-C."""
    stack = Path(os.environ.get("METERLINE_DATA_DIR", ".meterline")) / "stack.json"
    if not stack.exists():
        sys.exit("Start the system first: ./run up --detach; set -a; . .meterline/env; set +a")
    accounting = json.loads(stack.read_text("utf-8"))["api"]
    uvicorn.run(create_service(accounting, "chat-large"), port=PORT, log_level="warning")


if __name__ == "__main__":
    main()
