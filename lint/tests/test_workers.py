"""A worker is limited in CPU seconds and in nothing else: what else runs on the machine cannot make a finding."""

import os
import signal
import time
from typing import Any

from hecate_lint.workers import BrokenError, run

LIMIT_S = 0.2  # CPU seconds for one item


def work(item: str) -> dict[str, Any]:
    if item == "waits":
        time.sleep(5 * LIMIT_S)
    while item == "burns":
        pass
    if item == "crashes":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "ends":
        os._exit(7)
    return {"item": item}


def test_waiting_is_no_fault_and_burning_crashing_and_ending_are_told_apart() -> None:
    found = run(["waits", "burns", "crashes", "ends", "works"], work, 2, LIMIT_S)
    assert {item: str(one) if isinstance(one, BrokenError) else one for item, one in found.items()} == {
        "waits": {"item": "waits"},
        "burns": "not finished within 0.2 s of CPU time",
        "crashes": "the parser crashed (SIGKILL)",
        "ends": "the worker ended with status 7",
        "works": {"item": "works"},
    }
