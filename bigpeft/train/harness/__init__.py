"""lm-evaluation-harness (an extra) asks the packed and sharded model.

Importing the room imports the harness.
"""

from bigpeft.train.harness.answering import Answering
from bigpeft.train.harness.tasks import Score, ask, read_harness

__all__ = ["Answering", "Score", "ask", "read_harness"]
