"""What the server of processes imports before it forks them: all of training, on one thread."""

import gc
import os

from tests.worlds import ENVIRONMENT

os.environ.update(ENVIRONMENT)

import tests.train.runs  # noqa: F401

gc.freeze()  # no collection of a process that is forked from here need look at all that again
