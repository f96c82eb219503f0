"""Keys that the recipe does not have: what other tools mean by them, and what to write instead."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple, get_args

from pydantic import BaseModel

from bigpeft.recipe.sections import METHOD_SECTIONS, MethodSection, Recipe

_AXOLOTL, _FACTORY, _SWIFT = "axolotl", "LLaMA-Factory", "ms-swift"
_TUNE, _HF, _PEFT, _UNSLOTH = "torchtune", "Hugging Face", "HF peft", "Unsloth"


class Foreign(NamedTuple):
    """A key of another tool: ours in its place (none where nothing is needed) and a remark."""

    tool: str
    ours: str
    remark: str = ""


_DERIVED = "accumulation is derived from it, batch.micro_size and the world size"
_PRECISION = "auto, fp32, bf16 or fp16"
_VARIANT = "variants of LoRA are methods of their own"
_MASKING = "assistant, last or all"
_HELD_OUT = "held-out rows come from files of their own"
_RESUME = "auto, never or the folder of a checkpoint"

FOREIGN = {
    "base_model": Foreign(_AXOLOTL, "model.name"),
    "model_name_or_path": Foreign(_HF, "model.name"),
    "pretrained_model_name_or_path": Foreign(_HF, "model.name"),
    "tokenizer_name": Foreign(_HF, "model.tokenizer"),
    "load_in_4bit": Foreign(_HF, "model.weights", "nf4 or fp4"),
    "quantization_bit": Foreign(_FACTORY, "model.weights", "nf4 or fp4 are 4-bit"),
    "quant_bits": Foreign(_SWIFT, "model.weights", "nf4 or fp4 are 4-bit"),
    "bnb_4bit_quant_type": Foreign(_HF, "model.weights", "nf4 or fp4"),
    "bnb_4bit_use_double_quant": Foreign(_HF, "model.nested", "true or false"),
    "double_quantization": Foreign(_FACTORY, "model.nested", "true or false"),
    "adapter": Foreign(_AXOLOTL, "method.name"),
    "finetuning_type": Foreign(_FACTORY, "method.name"),
    "tuner_type": Foreign(_SWIFT, "method.name"),
    "peft_type": Foreign(_PEFT, "method.name"),
    "lora_r": Foreign(_AXOLOTL, "method.rank"),
    "lora_rank": Foreign(_FACTORY, "method.rank"),
    "r": Foreign(_PEFT, "method.rank"),
    "lora_alpha": Foreign(_PEFT, "method.alpha"),
    "lora_dropout": Foreign(_PEFT, "method.dropout"),
    "lora_target_modules": Foreign(_AXOLOTL, "method.target_modules"),
    "lora_target_linear": Foreign(_AXOLOTL, "method.target_modules", "all-linear"),
    "lora_target": Foreign(_FACTORY, "method.target_modules"),
    "modules_to_save": Foreign(_PEFT, "method.train_modules"),
    "lora_modules_to_save": Foreign(_AXOLOTL, "method.train_modules"),
    "additional_target": Foreign(_FACTORY, "method.train_modules"),
    "peft_use_dora": Foreign(_AXOLOTL, "method.name", _VARIANT),
    "use_dora": Foreign(_PEFT, "method.name", _VARIANT),
    "use_rslora": Foreign(_PEFT, "method.name", _VARIANT),
    "loraplus_lr_ratio": Foreign(_AXOLOTL, "method.learning_rate_ratio"),
    "datasets": Foreign(_AXOLOTL, "data.path"),
    "dataset": Foreign(_FACTORY, "data.path"),
    "sequence_len": Foreign(_AXOLOTL, "data.max_length"),
    "cutoff_len": Foreign(_FACTORY, "data.max_length"),
    "max_seq_len": Foreign(_TUNE, "data.max_length"),
    "max_seq_length": Foreign(_UNSLOTH, "data.max_length"),
    "chat_template": Foreign(_HF, "data.template"),
    "max_samples": Foreign(_FACTORY, "data.limit"),
    "train_on_inputs": Foreign(_AXOLOTL, "data.loss_on", _MASKING),
    "train_on_input": Foreign(_TUNE, "data.loss_on", _MASKING),
    "train_on_prompt": Foreign(_FACTORY, "data.loss_on", _MASKING),
    "mask_history": Foreign(_FACTORY, "data.loss_on", _MASKING),
    "sample_packing": Foreign(_AXOLOTL, "data.packing"),
    "dataloader_num_workers": Foreign(_HF, "data.workers"),
    "attn_implementation": Foreign(_HF, "model.attention"),
    "flash_attention": Foreign(_AXOLOTL, "model.attention", "flash_attention_2"),
    "val_set_size": Foreign(_AXOLOTL, "eval.path", _HELD_OUT),
    "val_size": Foreign(_FACTORY, "eval.path", _HELD_OUT),
    "split_dataset_ratio": Foreign(_SWIFT, "eval.path", _HELD_OUT),
    "per_device_eval_batch_size": Foreign(_HF, "eval.micro_size"),
    "micro_batch_size": Foreign(_AXOLOTL, "batch.micro_size"),
    "per_device_train_batch_size": Foreign(_HF, "batch.micro_size"),
    "batch_size": Foreign(_TUNE, "batch.micro_size"),
    "local_batch_size": Foreign("Automodel", "batch.micro_size"),
    "global_batch_size": Foreign("Automodel", "batch.global_size"),
    "gradient_accumulation_steps": Foreign(_HF, "batch.global_size", _DERIVED),
    "lr": Foreign(_TUNE, "optimizer.learning_rate"),
    "optim": Foreign(_HF, "optimizer.name"),
    "lr_scheduler": Foreign(_AXOLOTL, "optimizer.schedule"),
    "lr_scheduler_type": Foreign(_HF, "optimizer.schedule"),
    "max_grad_norm": Foreign(_HF, "optimizer.clip"),
    "adam_epsilon": Foreign(_HF, "optimizer.epsilon"),
    "adam_beta1": Foreign(_HF, "optimizer.betas", "both in one list"),
    "adam_beta2": Foreign(_HF, "optimizer.betas", "both in one list"),
    "output_dir": Foreign(_HF, "run.folder"),
    "num_epochs": Foreign(_AXOLOTL, "train.epochs"),
    "num_train_epochs": Foreign(_HF, "train.epochs"),
    "max_steps": Foreign(_HF, "train.steps"),
    "eval_steps": Foreign(_HF, "train.evaluate_every"),
    "logging_steps": Foreign(_HF, "", "every step is logged"),
    "bf16": Foreign(_HF, "train.precision", _PRECISION),
    "fp16": Foreign(_HF, "train.precision", _PRECISION),
    "gradient_checkpointing": Foreign(_HF, "train.activation_checkpointing"),
    "deepspeed": Foreign(_HF, "sharding.fragment"),
    "fsdp": Foreign(_HF, "sharding.fragment"),
    "fsdp_config": Foreign(_HF, "sharding.fragment"),
    "report_to": Foreign(_HF, "tracking.trackers"),
    "use_wandb": Foreign(_AXOLOTL, "tracking.trackers", "[wandb]"),
    "use_mlflow": Foreign(_AXOLOTL, "tracking.trackers", "[mlflow]"),
    "use_tensorboard": Foreign(_AXOLOTL, "tracking.trackers", "[tensorboard]"),
    "wandb_project": Foreign(_AXOLOTL, "tracking.project"),
    "mlflow_experiment_name": Foreign(_AXOLOTL, "tracking.project"),
    "mlflow_tracking_uri": Foreign(_AXOLOTL, "", "set MLFLOW_TRACKING_URI"),
    "run_name": Foreign(_HF, "tracking.name"),
    "wandb_name": Foreign(_AXOLOTL, "tracking.name"),
    "logging_dir": Foreign(_HF, "", "TensorBoard's files are in RUN/tensorboard"),
    "save_steps": Foreign(_HF, "checkpoint.every"),
    "save_total_limit": Foreign(_HF, "checkpoint.keep"),
    "resume_from_checkpoint": Foreign(_HF, "checkpoint.resume", _RESUME),
    "auto_resume_from_checkpoints": Foreign(_AXOLOTL, "checkpoint.resume", "auto"),
}
"""Foreign key → ours. Keys that mean and are called the same as ours need no entry."""


FOREIGN_METHODS = {"qlora": "write lora: weights are 4-bit unless model.weights is none"}
"""Names that other tools give to a method and the way its backbone is kept."""


def either(words: Iterable[str], link: str = "or") -> str:
    """`a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} {link} {last}" if first else last


def sections(method: object = None) -> dict[str, type[BaseModel]]:
    """Name → class of every section of a recipe with the method of this name."""
    known: dict[str, type[BaseModel]] = {}
    for name, field in Recipe.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if kind]
        known[name] = next(k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
    return known | {"method": METHOD_SECTIONS.get(str(method), MethodSection)}


def owners(key: str) -> list[str]:
    """Sections that have this key, whatever the method."""
    found = [name for name, section in sections().items() if key in section.model_fields]
    if any(key in section.model_fields for section in METHOD_SECTIONS.values()):
        found = [name for name in sections() if name in {*found, "method"}]
    return found


def unknown_key(path: tuple[str, ...], method: object) -> tuple[str, str]:
    """Why the key at `path` is not accepted in a recipe with this method, and the fix."""
    *above, key = path
    here = above[0] if above else ""
    of_methods = [name for name, m in METHOD_SECTIONS.items() if key in m.model_fields]
    if here == "method" and of_methods:
        fix = f"leave it out, or choose a method that has it: {', '.join(of_methods)}"
        return f"is not an option of {method}", fix
    if homes := owners(key):
        return f"belongs to {either(homes)}", f"write {either([f'{h}.{key}' for h in homes])}"
    if foreign := FOREIGN.get(key):
        remark = f" ({foreign.remark})" if foreign.remark else ""
        fix = f"write {foreign.ours}{remark}" if foreign.ours else f"leave it out{remark}"
        return f"is {foreign.tool}'s name", fix
    known = sections(method)
    names = list(known[here].model_fields) if here in known else list(known)
    why = f"is not a key of {here}" if here else "is not a section"
    if near := get_close_matches(key, names, n=1):
        return why, f"did you mean {'.'.join([*above, *near])}?"
    for name, section in known.items():
        if near := get_close_matches(key, section.model_fields, n=1, cutoff=0.8):
            return why, f"did you mean {name}.{near[0]}?"
    return why, f"leave it out, or write one of {', '.join(names)}"
