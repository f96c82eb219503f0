"""One node's side of the talk: python -m bigpeft.doctor.node QUESTIONS, JSON lines both ways.

It ends, and removes its mark, when its input ends: with the doctor, whatever became of that.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bigpeft.doctor.facts import gather, route_to
from bigpeft.doctor.marks import FIRST, Mark


def main(argument: str) -> None:
    """Say what there is to know, then answer questions."""
    asked = json.loads(argument)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # notices of libraries are no answers

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")

    facts = asdict(gather(asked["folders"], asked["inputs"], asked["port"]))
    mark = Mark(Path(asked["shared"]), asked["token"], asked["host"])
    try:
        say({"facts": facts, "unwritable": mark.write(FIRST)})
        for line in sys.stdin:
            say(_answer(json.loads(line), mark))
    finally:
        mark.remove()


def _answer(question: dict[str, Any], mark: Mark) -> dict[str, Any]:
    match question:
        case {"look": hosts, "patience": patience}:
            return {"seen": mark.look(hosts, patience)}
        case {"write": text}:
            return {"unwritable": mark.write(text)}
        case {"route": address, "port": port}:
            return {"route": route_to(address, port)}
        case _:
            return {"time": time.time()}


if __name__ == "__main__":
    main(sys.argv[1])
