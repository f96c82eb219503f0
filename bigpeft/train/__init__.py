"""The training run: `run.py` is the story, `step.py` one optimizer step."""

__all__: list[str] = []
