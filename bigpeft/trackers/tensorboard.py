"""TensorBoard: event files in RUN/tensorboard, for `tensorboard --logdir`."""

import time
from collections.abc import Mapping
from typing import Any

from bigpeft.trackers.base import Ending, Run, Tracker


class TensorBoard(Tracker):
    """Its own writer of event files; neither TensorFlow nor torch is needed."""

    library = extra = "tensorboard"

    def __init__(self, run: Run) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]  made by protobuf
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(run.folder / "tensorboard"))
        if run.start:  # readers then forget what an earlier start wrote of these steps
            self._add(run.start + 1, session_log=SessionLog(status=SessionLog.START))

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]  made by protobuf

        values = [Summary.Value(tag=name, simple_value=x) for name, x in scalars.items()]
        self._add(step, summary=Summary(value=values))
        self._writer.flush()

    def close(self, ending: Ending) -> None:
        self._writer.close()

    def _add(self, step: int, **what: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  made by protobuf

        self._writer.add_event(Event(wall_time=time.time(), step=step, **what))
