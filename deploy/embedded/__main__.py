"""`python -m deploy.embedded --data DIR`: the embedded stack alone, until it is told to stop.

Prints one line of JSON with the addresses once everything is ready, and writes it to `--write FILE` if given; what it
is doing goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from deploy.embedded.errors import EmbeddedError, StackRunsElsewhereError
from deploy.embedded.stack import SERVERS, EmbeddedStack
from runtime.exits import Exit
from runtime.life import Stop

LOOK_EVERY_S = 0.5


def say(line: str) -> None:
    """To the person who looks on."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main() -> int:
    """Returns the exit status: 0 after a signal, 1 when a server ended by itself."""
    parser = argparse.ArgumentParser(prog="python -m deploy.embedded", description="Starts the embedded stack and holds it.")
    parser.add_argument("--data", type=Path, default=Path(".meterline"), help="where its data lies (.meterline)")
    parser.add_argument("--servers", default=",".join(SERVERS), help="which, separated by commas (all)")
    parser.add_argument("--write", type=Path, help="also write the addresses to this file, mode 0600")
    parser.add_argument("--scratch", action="store_true", help="remove the data at the end, and do not wait for the disk")
    arguments = parser.parse_args()
    servers = arguments.servers.split(",")
    if unknown := set(servers) - set(SERVERS):
        parser.error(f"no such server: {', '.join(sorted(unknown))}; there are {', '.join(SERVERS)}")
    stop = Stop.install()
    stack = EmbeddedStack(arguments.data, log=say, servers=servers, durable=not arguments.scratch)
    scratch = arguments.scratch
    try:
        addresses = json.dumps(stack.start().as_json())
        if arguments.write is not None:
            _write(arguments.write, addresses)
        sys.stdout.write(addresses + "\n")
        sys.stdout.flush()
        while not stop.wait(LOOK_EVERY_S):
            if ended := stack.ended():
                say(f"meterline: ended by itself: {ended}; stopping the rest")
                return Exit.FAILED
    except StackRunsElsewhereError as error:
        scratch = False
        say(f"meterline: {error}")
        return error.code
    except EmbeddedError as error:
        say(f"meterline: {error}")
        return error.code
    finally:
        if arguments.write is not None:
            arguments.write.unlink(missing_ok=True)
        if scratch:
            stack.forget()
        else:
            stack.stop()
    return Exit.OK


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a reader waits for the name to appear."""
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main())
