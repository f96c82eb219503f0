"""Plans of two models from 8 to 1,024 ranks. `python benchmarks/scaling.py` prints them.

Nothing is run: `bigpeft plan` says the same of one setting at a time.
"""

from pathlib import Path

from bigpeft.plan.forecast import CARDS, GIB, Hardware, forecast_of, read_speed
from bigpeft.plan.make import outline
from bigpeft.recipe import load_recipe
from bigpeft.world import World

MODELS = {
    "Llama-3.3-70B": ("llama-3.3-70b-8x80gb", ("1", "node", "world")),
    "Llama-3.1-405B": ("llama-3.1-405b-8x80gb", ("node", "world")),
}
RANKS = (8, 32, 128, 1024)
PER_NODE = 8
ROWS = 4  # of each rank and step
OVERRIDES = [
    "data.max_length=2048",
    "method={name: lora, rank: 16, alpha: 32, target_modules: all-linear}",
    "train.precision=bf16",
    "train.activation_checkpointing=true",
    "sharding.fragment=zero3",
]


def row(model: str, recipe: str, group: str, ranks: int) -> str:
    """One line of the table."""
    batch = f"batch={{global_size: {ROWS * ranks}, micro_size: 1}}"
    wanted = load_recipe(
        Path(f"recipes/{recipe}.yaml"), [*OVERRIDES, batch, f"sharding.group={group}"]
    )
    world = World(size=ranks, local_size=PER_NODE)
    found = forecast_of(outline(wanted, world, weights=False))
    network = read_speed("--bandwidth", "400Gbit/s")
    speed = found.speed(Hardware(ranks // PER_NODE, PER_NODE, CARDS["h100"], network))
    inside, between = found.traffic.inside / 1e9, found.traffic.between_nodes / 1e9
    return (
        f"| {model} | {ranks} | {group} | {found.peak / GIB:.1f} | {inside:.1f} | {between:.2f} "
        f"| {speed.step:.2f} | {speed.binding} | {speed.tokens_per_step / speed.step:,.0f} |"
    )


def main() -> None:
    """Print Markdown."""
    print(
        "| model | ranks | group | peak GiB | GB inside a node | GB between nodes | s/step ≥ "
        "| bound by | tokens/s ≤ |"
    )
    print("| --- " * 9 + "|")
    for model, (recipe, groups) in MODELS.items():
        for group in groups:
            for ranks in RANKS:
                print(row(model, recipe, group, ranks), flush=True)


if __name__ == "__main__":
    main()
