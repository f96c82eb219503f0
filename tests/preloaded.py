"""What the server of processes imports before it forks them: all of training, on one thread."""

import os

from tests.worlds import ENVIRONMENT

os.environ.update(ENVIRONMENT)

import tests.train.runs  # noqa: F401
