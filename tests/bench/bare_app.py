"""The bare framework: FastAPI on uvicorn as the product starts it, answering {} to the same POST and doing nothing else."""

from __future__ import annotations

import socket
import sys

import uvicorn
from fastapi import FastAPI


def main(path: str) -> None:
    """Serves until it is ended; writes the port, and a line's end, when it listens."""
    app = FastAPI()

    @app.post(path)
    async def nothing() -> dict[str, str]:
        return {}

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
