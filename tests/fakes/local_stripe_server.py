"""A local Stripe of a test's own: on a free port, with a clock that the test moves, and a way to kill it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import stripe

KEY = "sk_test_for_one_run"


class LocalStripeServer:
    """The process. Use as a context manager; `kill()` and `start()` keep the data."""

    def __init__(self, data: Path, key: str = KEY) -> None:
        self.data, self.key = data, key
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> LocalStripeServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)

    def start(self) -> None:
        """Returns when it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deploy.embedded.local_stripe", "--data", str(self.data), "--port", "0", "--key", self.key],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("listening on "), f"the local Stripe did not start: {line!r}"
        self.url = line.split()[-1]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status after the signal; 0 when it does not run."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        status = self._process.wait(timeout=20)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return status

    def client(self, key: str | None = None) -> stripe.StripeClient:
        """The official SDK, pointed here; without retries, so that a test sees each answer."""
        return stripe.StripeClient(
            key or self.key,
            base_addresses={"api": self.url},
            http_client=stripe.RequestsClient(timeout=20),
            max_network_retries=0,
        )

    def admin(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """POST to an admin path, as `admin("clock", {"advance": 60})`."""
        request = urllib.request.Request(
            f"{self.url}/__local/{path}",
            json.dumps(document).encode(),
            {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
