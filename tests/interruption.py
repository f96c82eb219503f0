"""What stops a command in the middle of its work."""


class Interrupted(Exception):
    """Nothing that a command handles."""


def half_way(done: int, total: int) -> None:
    """A progress that does not let more than half of the work be done."""
    if done > total / 2:
        raise Interrupted
