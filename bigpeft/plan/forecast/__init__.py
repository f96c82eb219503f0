"""What a run will cost before it starts: bytes by phase, traffic, seconds; and what would fit."""

from bigpeft.plan.forecast.costs import costs
from bigpeft.plan.forecast.forecast import RESERVE, Forecast, forecast, forecast_of
from bigpeft.plan.forecast.hardware import CARDS, GIB, Hardware, read_bytes, read_speed
from bigpeft.plan.forecast.phases import PHASES
from bigpeft.plan.forecast.setting import Setting
from bigpeft.plan.forecast.verdict import advice, on_its_nodes, others_that_fit, verdict

__all__ = [
    "CARDS",
    "GIB",
    "PHASES",
    "RESERVE",
    "Forecast",
    "Hardware",
    "Setting",
    "advice",
    "costs",
    "forecast",
    "forecast_of",
    "on_its_nodes",
    "others_that_fit",
    "read_bytes",
    "read_speed",
    "verdict",
]
