"""What a run will cost before it starts: bytes by phase, traffic, seconds; and what would fit."""

from bigpeft.plan.forecast.forecast import RESERVE, Forecast, forecast, forecast_of
from bigpeft.plan.forecast.hardware import CARDS, GIB, Hardware, read_bytes, read_speed
from bigpeft.plan.forecast.phases import PHASES
from bigpeft.plan.forecast.search import changes, cheapest_change, fitting
from bigpeft.plan.forecast.setting import Setting

__all__ = [
    "CARDS",
    "GIB",
    "PHASES",
    "RESERVE",
    "Forecast",
    "Hardware",
    "Setting",
    "changes",
    "cheapest_change",
    "fitting",
    "forecast",
    "forecast_of",
    "read_bytes",
    "read_speed",
]
