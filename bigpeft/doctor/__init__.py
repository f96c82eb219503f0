"""The doctor: what every node says about itself, and whether a run can start on them."""

from bigpeft.doctor.collectives import Collectives
from bigpeft.doctor.examine import Found, Wanted, examine
from bigpeft.doctor.facts import Disk, Facts
from bigpeft.doctor.problem import Node, Problem, gib

__all__ = ["Collectives", "Disk", "Facts", "Found", "Node", "Problem", "Wanted", "examine", "gib"]
