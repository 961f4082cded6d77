"""`python -m hecate_core.cli.tied`: the console script, ended when whoever started it is gone.

A sweep that is killed can tell its runs nothing, but the system closes its end of their standard input. Unlike a
parent-death signal this needs no Linux, misses no parent that died early, and does not mistake a thread for a process.
"""

import os
import signal
import threading


def tie() -> None:
    """Take standard input for a lifeline: its end is a SIGTERM to this process. Whoever reads it next finds nothing."""
    lifeline = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    threading.Thread(target=_hold, args=(lifeline,), name="lifeline", daemon=True).start()


def _hold(lifeline: int) -> None:
    while os.read(lifeline, 1):
        continue
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)


if __name__ == "__main__":
    tie()  # before anything is imported that takes long
    from hecate_core.cli.main import entry

    entry()
