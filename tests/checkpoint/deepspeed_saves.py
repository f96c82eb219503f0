"""Real saves of DeepSpeed's own format, made on the shared pools of ranks."""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import deepspeed
import numpy as np
import peft
import torch
import yaml
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from bigpeft.recipe import load_recipe
from bigpeft.train.run import train
from bigpeft.train.terminal import Terminal
from bigpeft.world import read_world
from tests.train.runs import DEBUG

ENDS = ["q_proj", "v_proj", "down_proj"]
SIZES = {"num_hidden_layers": 1, "intermediate_size": 353}
"""Odd, so that two ranks cut some tensors of rank 3 into slices with padding."""


def save_own_here(folder: Path, overrides: Sequence[str]) -> None:
    """One rank's part of a run of bigpeft whose engine saves itself at the end."""
    recipe = load_recipe(DEBUG, [f"run.folder={folder / 'first'}", *overrides])
    finished = train(recipe, read_world(), Terminal(speaks=False))
    save = finished.engine.save_checkpoint  # type: ignore[attr-defined]
    save(str(folder / "theirs"), exclude_frozen_parameters=True)


def stock_base(folder: Path) -> Path:
    """The debug recipe's Llama, of one layer and odd width, as files."""
    values = yaml.safe_load(DEBUG.read_text())["model"]["config"] | SIZES
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).save_pretrained(folder)
    return folder


def recipe_of(base: Path, method: dict[str, object], *more: str) -> list[str]:
    """Overrides of the debug recipe: this base, unquantised, with this method."""
    model = {"name": str(base), "tokenizer": "recipes/data/debug/tokenizer", "weights": "none"}
    return [f"model={json.dumps(model)}", f"method={json.dumps(method)}", "eval=null", *more]


class Wrapped(nn.Module):
    """A model inside another, as wrappers leave it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **batch):
        return self.module(**batch)


def save_peft_here(
    base: Path, folder: Path, adapters: Sequence[str] = ("default",), wrapped: bool = False
) -> dict[str, np.ndarray]:
    """Two steps of LoRA of HF peft under DeepSpeed ZeRO-3, saved before and after.

    Returns masters and both moments of the engine by bigpeft's names, as `final_state` does.
    """
    torch.manual_seed(1)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=6, target_modules=ENDS)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name in adapters[1:]:
        model.add_adapter(name, config)
    model.base_model.set_adapter(list(adapters))
    mine = Wrapped(model) if wrapped else model
    engine, *_ = deepspeed.initialize(
        model=mine,
        optimizer=torch.optim.AdamW([p for p in mine.parameters() if p.requires_grad], lr=1e-2),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {"stage": 3},
            "zero_allow_untested_optimizer": True,
        },
    )
    engine.save_checkpoint(str(folder), tag="untrained", exclude_frozen_parameters=True)
    for seed in (2, 3):
        torch.manual_seed(seed + read_world().rank)
        ids = torch.randint(3, 96, (1, 9))
        engine.backward(engine(input_ids=ids, labels=ids).loss)
        engine.step()
    engine.save_checkpoint(str(folder), exclude_frozen_parameters=True)
    engine.save_checkpoint(
        str(folder),
        tag="with_arguments",
        client_state={"arguments": Namespace(lr=1e-2)},
        save_latest=False,
        exclude_frozen_parameters=True,
    )
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            ours = name.removeprefix("base_model.model.").removesuffix(".default.weight")
            found[f"{ours}.master"] = safe_get_full_fp32_param(parameter).numpy().copy()
            for moment in ("exp_avg", "exp_avg_sq"):
                value = safe_get_full_optimizer_state(parameter, moment)
                found[f"{ours}.{moment}"] = value.numpy().copy()
    return found
