"""`python -m examples.chat_proxy`: the proxy and its stand-ins on this machine, until Ctrl-C.

Wants what `./run up` wrote to `.meterline/env` and `.meterline/stack.json`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import uvicorn

from examples.chat_proxy.proxy import Addresses, create_proxy
from examples.stand_ins.auth_service import Person, create_auth_service
from examples.stand_ins.model import create_model

AUTH_PORT, MODEL_PORT, PROXY_PORT = 4001, 4002, 4003
PEOPLE = {
    "ada": Person("user_ada", "enigma", "ada@northlight.example", "tnt_123"),
    "grace": Person("user_grace", "cobol", "grace@northlight.example", "tnt_123", role="admin"),
}


def main() -> None:
    """Blocks until Ctrl-C."""
    secret = os.environ.get("METERLINE_JWT_ACCESS_SECRET") or os.environ.get("JWT_ACCESS_SECRET")
    stack = Path(os.environ.get("METERLINE_DATA_DIR", ".meterline")) / "stack.json"
    if not secret or not stack.exists():
        sys.exit("Start the system first: ./run up --detach; set -a; . .meterline/env; set +a")
    accounting = json.loads(stack.read_text("utf-8"))["api"]
    servers = [
        uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
        for app, port in ((create_auth_service(secret, PEOPLE), AUTH_PORT), (create_model(), MODEL_PORT))
    ]
    for server in servers:
        threading.Thread(target=server.run, daemon=True).start()
    here = "http://127.0.0.1"
    addresses = Addresses(accounting, f"{here}:{AUTH_PORT}", f"{here}:{MODEL_PORT}")
    sys.stdout.write(
        f"curl -N {here}:{PROXY_PORT}/chat -H 'Content-Type: application/json' \\\n"
        '  -d \'{"username": "ada", "password": "enigma", "message": "what is a bill? in tokens: 12"}\'\n'
    )
    uvicorn.run(create_proxy(addresses, "chat-large"), port=PROXY_PORT, log_level="warning")


if __name__ == "__main__":
    main()
