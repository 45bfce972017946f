"""Becomes a command that dies with its parent: `python -I -S launch.py PARENT SIGNAL UID GID COMMAND [ARG...]`.

A file of its own, run by a fresh interpreter, because the alternative (code between fork and exec of a process with
threads) can deadlock and is warned about since Python 3.12. Standard library only; it is never imported.
The order matters: a change of user clears the death signal, and a parent that died before the signal was set would
never be noticed.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
EXIT_PARENT_GONE = 125
EXIT_CANNOT = 126


def main() -> None:
    parent, death_signal, uid, gid = (int(argument) for argument in sys.argv[1:5])
    command = sys.argv[5:]
    # 1. another user, if asked for; -1 stays as it is
    if uid != -1:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # 2. the promise
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # 3. the parent may have died between 0 and 2
    if os.getppid() != parent:
        os._exit(EXIT_PARENT_GONE)
    # 4. the command; the death signal survives exec
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


try:
    main()
except OSError as error:
    sys.stderr.write(f"cannot start {sys.argv[5]}: {error}\n")
    sys.exit(EXIT_CANNOT)
