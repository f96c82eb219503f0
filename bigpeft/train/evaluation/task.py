"""One set of held-out rows, ready for the model."""

import re
from dataclasses import dataclass

from bigpeft.data import Choices, OptionRows, Prompt, Tokens
from bigpeft.train.generation.sampling import Sampling


@dataclass(frozen=True)
class Asked:
    """Prompts whose greedy answers are compared, after `pattern` has found the answer in them."""

    prompts: list[Prompt]
    sampling: Sampling
    pattern: str | None

    def is_right(self, index: int, answer: str) -> bool:
        """Whether what was generated for prompt `index` is what is expected."""
        found, expected = self._found(answer), self._found(self.prompts[index].expected)
        return found is not None and found == expected

    def _found(self, text: str) -> str | None:
        """The last find's first group, or all of it; without a pattern the text itself."""
        if self.pattern is None:
            return text.strip()
        finds = list(re.finditer(self.pattern, text))
        if not finds:
            return None
        groups = finds[-1].groups()
        return (groups[0] if groups else finds[-1].group() or "").strip()


@dataclass(frozen=True)
class Task:
    """`tokens` are the rows as the loss sees them; what no metric needs is None."""

    name: str
    metrics: tuple[str, ...]
    tokens: Tokens
    choices: Choices | None = None
    options: OptionRows | None = None
    asked: Asked | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.tokens)
