"""What a run will cost before it starts: bytes by phase, traffic, seconds; and what would fit."""

from bigpeft.plan.forecast.forecast import Forecast, forecast_of

__all__ = ["Forecast", "forecast_of"]
