"""Matrix pattern constraints onto the methods that can take them."""

from bigpeft.errors import RecipeError
from bigpeft.methods import Factors, Method, Mpc, methods


def refuse_pattern(method: type[Method], name: str, mpc: Mpc | None) -> None:
    """Raise RecipeError where this method cannot take this constraint."""
    if mpc is None or mpc.pattern in method.mpc_patterns:
        return
    able = [key for key, other in methods().items() if mpc.pattern in other.mpc_patterns]
    if method.mpc_patterns:
        raise RecipeError(
            "mpc.pattern",
            f"{mpc.pattern} does not go with {name}, which needs the product of its factors to be "
            "a matrix",
            f"write {' or '.join(method.mpc_patterns)}, or one of {', '.join(able)}",
        )
    raise RecipeError(
        "mpc",
        f"constrains two trained low-rank factors, {name} has none",
        f"remove it, or choose one of {', '.join(able)}",
    )


def constrain(method: Method, mpc: Mpc | None) -> None:
    """Lay the constraint on the method's factors."""
    if mpc is not None:
        assert isinstance(method, Factors)
        method.constrain(mpc)
