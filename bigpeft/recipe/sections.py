"""The recipe: one frozen tree of sections, every key documented where it is defined."""

from typing import Annotated, Any, Literal, Union

from pydantic import Field, create_model, model_validator

from bigpeft.methods import Mpc, methods
from bigpeft.quant import codecs
from bigpeft.recipe.checkpointing import Checkpointing
from bigpeft.recipe.data import Data
from bigpeft.recipe.evaluation import KEPT, Evaluation
from bigpeft.recipe.section import Section
from bigpeft.recipe.tracking import Tracking
from bigpeft.recipe.values import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    Targets,
    one_of,
)


class Model(Section):
    """The backbone: where its weights come from and how they are kept."""

    name: str | None = Field(None, description="folder of a Hugging Face model, or a hub name")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    config: dict[str, Any] | None = Field(
        None, description="an inline config.json instead of a folder; needs random: true"
    )
    tokenizer: str | None = Field(None, description="folder or hub name; default: the model's own")
    weights: Annotated[str, one_of(sorted(codecs()))] = Field(
        "nf4", description="how frozen linears are kept: nf4, fp4, or none for the compute dtype"
    )
    block: Literal[32, 64, 128, 256, 512, 1024, 2048, 4096] = Field(
        64, description="weights that share one scale"
    )
    nested: bool = Field(True, description="quantise the scales too")
    cache: str | None = Field(
        None,
        description="folder of packed copies: the first run packs the model, later ones read that",
    )
    random: bool = Field(
        False, description="random weights from the config; no weight file is read"
    )
    layers: PositiveInt | None = Field(None, description="keep only this many layers")
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto",
        description="implementation of attention; auto is what transformers takes, and flash "
        "attention for packed rows where there is one",
    )
    trust_remote_code: bool = Field(False, description="run Python code that ships with the model")

    @model_validator(mode="after")
    def _has_a_source(self) -> "Model":
        if self.name is None and self.config is None:
            raise ValueError("has no source: add name, or config with random: true")
        if self.config is not None and not self.random:
            raise ValueError("config describes a model without weights: add random: true")
        return self


class MethodSection(Section):
    """Keys that every method has beside its own options."""

    target_modules: Targets | None = Field(
        None, description='"all-linear", ends of layer names, or a regular expression'
    )
    train_modules: tuple[str, ...] = Field(
        (), description="small dense modules trained in full: ends of names such as norm, lm_head"
    )
    overrides: dict[str, dict[str, Any]] = Field(
        {}, description="end of a layer name or regular expression → other options for it"
    )
    start_from: str | None = Field(
        None,
        description="folder of an adapter whose numbers the run starts from: that of another run, "
        "or what bigpeft import has made",
    )


def _method_sections() -> dict[str, type[MethodSection]]:
    sections = {}
    for name, method in methods().items():
        options = {key: (f.annotation, f) for key, f in method.Options.model_fields.items()}
        sections[name] = create_model(
            f"Method_{name}",
            __base__=MethodSection,
            __doc__=(method.__doc__ or "").strip(),
            name=(Literal[name], Field(description="name of the method")),  # type: ignore[valid-type]
            **options,  # type: ignore[call-overload]
        )
    return sections


METHOD_SECTIONS = _method_sections()
Method = Annotated[Union[tuple(METHOD_SECTIONS.values())], Field(discriminator="name")]  # type: ignore[valid-type]  # noqa: UP007


class Batch(Section):
    """How many rows one optimizer step sees, and how ranks share them."""

    global_size: PositiveInt = Field(description="rows per optimizer step, all ranks together")
    micro_size: PositiveInt = Field(1, description="rows per rank per forward pass")


class Optimizer(Section):
    """AdamW, its schedule and clipping."""

    name: Literal["adamw"] = Field("adamw", description="the optimizer")
    learning_rate: PositiveFloat | None = Field(
        None, description="peak learning rate; default: the method's own"
    )
    betas: tuple[Share, Share] = Field((0.9, 0.999), description="decay of the two moments")
    epsilon: PositiveFloat = Field(1e-8, description="added to the root of the second moment")
    weight_decay: NonNegativeFloat = Field(0.0, description="decoupled decay of factors")
    schedule: Literal["constant", "linear", "cosine", "wsd"] = Field(
        "cosine", description="course after warm-up; wsd is warm-up, stable, decay"
    )
    warmup_steps: NonNegativeInt | None = Field(None, description="steps from zero to the peak")
    warmup_ratio: Share = Field(0.03, description="the same as a share of all steps")
    decay_ratio: Share = Field(0.2, description="wsd: share of all steps that decay")
    final_ratio: Share = Field(0.0, description="last learning rate over the peak")
    clip: PositiveFloat | None = Field(1.0, description="largest global gradient norm; null: none")


class Run(Section):
    """Where the results go, and the seed of everything random."""

    folder: str = Field(description="run folder: metrics, checkpoints, adapter, summary")
    seed: NonNegativeInt = Field(0, description="seed of data order, starts and dropout")


class Train(Section):
    """Length and precision of the run."""

    steps: PositiveInt | None = Field(None, description="optimizer steps")
    epochs: PositiveFloat | None = Field(None, description="passes over the data instead of steps")
    stop_after: PositiveInt | None = Field(
        None, description="save after this step and exit with 75: for queues with a time limit"
    )
    evaluate_every: PositiveInt | None = Field(
        None, description="steps between evaluations; always at the start and the end"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="compute dtype; auto is bf16 on an accelerator, fp32 on a CPU"
    )
    activation_checkpointing: bool = Field(
        False, description="recompute each block in the backward pass instead of keeping it"
    )
    timeout: PositiveFloat = Field(
        1800.0,
        description="seconds in which no rank moves before all end, naming the one that is stuck",
    )

    @model_validator(mode="after")
    def _has_a_length(self) -> "Train":
        if self.steps is not None and self.epochs is not None:
            raise ValueError("has both steps and epochs: keep one of them")
        if self.steps is None and self.epochs is None:
            raise ValueError("has neither steps nor epochs: add steps")
        return self


class Sharding(Section):
    """Who keeps which part of the model."""

    fragment: str = Field("zero3", description="a file of ds_configs/ without .json, or a path")
    group: Literal["auto", "world", "node"] | PositiveInt = Field(
        "world",
        description="ranks that share one copy of the frozen backbone with ZeRO-3; auto: as few "
        "as the memory of a rank allows",
    )
    readers: Literal["world", "node"] = Field(
        "world",
        description="who shares the reading of weight files: all ranks, or those of each node, so "
        "that no weight crosses between nodes while loading",
    )


class Recipe(Section):
    """A whole run."""

    model: Model
    method: Method  # type: ignore[valid-type]
    mpc: Mpc | None = None
    data: Data
    eval: Evaluation | None = None
    batch: Batch
    optimizer: Optimizer = Optimizer()  # type: ignore[call-arg]
    run: Run
    train: Train
    sharding: Sharding = Sharding()  # type: ignore[call-arg]
    checkpoint: Checkpointing = Checkpointing()  # type: ignore[valid-type]
    tracking: Tracking = Tracking()  # type: ignore[call-arg]

    @model_validator(mode="before")
    @classmethod
    def _judges_by_what_is_kept(cls, values: Any) -> Any:
        """Rows that data.held_out keeps from training are what eval is about, unless it says."""
        if not isinstance(values, dict):
            return values
        data, asked = values.get("data"), values.get("eval")
        if isinstance(data, dict) and isinstance(asked, dict) and data.get("held_out"):
            return {**values, "eval": {**asked, "path": asked.get("path") or KEPT}}
        return values
