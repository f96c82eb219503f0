"""No rank waits in vain: each tells once a second how far it is, and all end when one cannot go on.

`pulse` is what a rank tells, `ward` judges what all have told, `board` carries it between them,
`ending` is the message, and `watch` the thread that ties them together.
"""

from bigpeft.train.watch.pulse import Pulse
from bigpeft.train.watch.watch import Watch

__all__ = ["Pulse", "Watch"]
