"""What other tools call the keys of a recipe, and what to write instead."""

from typing import NamedTuple

_AXOLOTL, _FACTORY, _SWIFT = "axolotl", "LLaMA-Factory", "ms-swift"
_TUNE, _HF, _PEFT, _UNSLOTH = "torchtune", "Hugging Face", "HF peft", "Unsloth"
_TRL = "TRL"


class Foreign(NamedTuple):
    """A key of another tool: ours in its place (none where nothing is needed) and a remark."""

    tool: str
    ours: str
    remark: str = ""

    def told(self) -> tuple[str, str]:
        """Why the key is not accepted, and the fix."""
        remark = f" ({self.remark})" if self.remark else ""
        fix = f"write {self.ours}{remark}" if self.ours else f"leave it out{remark}"
        return f"is {self.tool}'s name", fix


_DERIVED = "accumulation is derived from it, batch.micro_size and the world size"
_PRECISION = "auto, fp32, bf16 or fp16"
_VARIANT = "variants of LoRA are methods of their own"
_MASKING = "assistant, last or all"
_LONG = "drop, truncate, split or error"
_HELD_OUT = "a share of the rows, such as 0.05"
_CORES = "rows are tokenised by as many processes as there are cores"
_OWN_LENGTH = "a batch is as long as its longest row, or packed"
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
    "datasets": Foreign(_AXOLOTL, "data.path", "or data.sources, each with path and format"),
    "dataset": Foreign(_FACTORY, "data.path"),
    "pretraining_dataset": Foreign(_AXOLOTL, "data.path", "with data.streaming: true"),
    "dataset_name": Foreign(_HF, "data.path"),
    "train_file": Foreign(_HF, "data.path"),
    "file_name": Foreign(_FACTORY, "data.path"),
    "dataset_dir": Foreign(_FACTORY, "data.path", "the whole path of the file or folder"),
    "data.data_files": Foreign(_AXOLOTL, "data.path"),
    "data.type": Foreign(_AXOLOTL, "data.format"),
    "formatting": Foreign(_FACTORY, "data.format"),
    "train_on_split": Foreign(_AXOLOTL, "data.split"),
    "field_messages": Foreign(_AXOLOTL, "data.columns", "{messages: your column}"),
    "message_property_mappings": Foreign(_AXOLOTL, "data.columns", "of whole columns"),
    "dataset_text_field": Foreign(_TRL, "data.columns", "{text: your column}"),
    "column_map": Foreign(_TUNE, "data.columns", "the format's column: the file's column"),
    "interleave_probs": Foreign(_FACTORY, "data.sources", "each with its weight"),
    "interleave_prob": Foreign(_SWIFT, "data.sources", "each with its weight"),
    "mix_strategy": Foreign(_FACTORY, "data.mix"),
    "stopping_strategy": Foreign(_SWIFT, "data.mix"),
    "excess_length_strategy": Foreign(_AXOLOTL, "data.long_rows", _LONG),
    "truncation_strategy": Foreign(_SWIFT, "data.long_rows", _LONG),
    "strict": Foreign(_SWIFT, "data.on_bad_row", "error or skip"),
    "sequence_len": Foreign(_AXOLOTL, "data.max_length"),
    "cutoff_len": Foreign(_FACTORY, "data.max_length"),
    "max_seq_len": Foreign(_TUNE, "data.max_length"),
    "max_seq_length": Foreign(_UNSLOTH, "data.max_length"),
    "chat_template": Foreign(_HF, "data.template"),
    "chat_template_jinja": Foreign(_AXOLOTL, "data.template"),
    "max_train_samples": Foreign(_HF, "data.limit"),
    "num_samples": Foreign(_FACTORY, "data.limit"),
    "max_samples": Foreign(_FACTORY, "data.limit"),
    "train_on_inputs": Foreign(_AXOLOTL, "data.loss_on", _MASKING),
    "train_on_input": Foreign(_TUNE, "data.loss_on", _MASKING),
    "train_on_prompt": Foreign(_FACTORY, "data.loss_on", _MASKING),
    "mask_history": Foreign(_FACTORY, "data.loss_on", _MASKING),
    "roles_to_train": Foreign(_AXOLOTL, "data.loss_on", _MASKING),
    "train_on_eos": Foreign(_AXOLOTL, "", "the mark that ends a learned answer is learned"),
    "loss_scale": Foreign(_SWIFT, "data.loss_on", _MASKING + "; weights of 0 stand in the rows"),
    "assistant_only_loss": Foreign(_TRL, "data.loss_on", _MASKING),
    "completion_only_loss": Foreign(_TRL, "data.loss_on", _MASKING),
    "mask_prompt": Foreign("litgpt", "data.loss_on", _MASKING),
    "train_on_completions": Foreign(_UNSLOTH, "data.loss_on", _MASKING),
    "sample_packing": Foreign(_AXOLOTL, "data.packing"),
    "neat_packing": Foreign(_FACTORY, "data.packing", "rows of a pack never see each other"),
    "padding_free": Foreign(_SWIFT, "data.packing"),
    "packed": Foreign(_TUNE, "data.packing"),
    "packed_sequence_size": Foreign("Automodel", "data.packing", "of data.max_length tokens"),
    "eval_sample_packing": Foreign(_AXOLOTL, "", "held-out rows are not packed"),
    "eval_packing": Foreign(_TRL, "", "held-out rows are not packed"),
    "pad_to_sequence_len": Foreign(_AXOLOTL, "", _OWN_LENGTH),
    "shuffle_merged_datasets": Foreign(_AXOLOTL, "data.shuffle"),
    "dataset_shuffle": Foreign(_SWIFT, "data.shuffle"),
    "train_dataloader_shuffle": Foreign(_SWIFT, "data.shuffle"),
    "data_seed": Foreign(_HF, "run.seed"),
    "lazy_tokenize": Foreign(_SWIFT, "data.streaming", "needs train.steps"),
    "buffer_size": Foreign(_FACTORY, "data.window", "rows"),
    "shuffle_buffer_size": Foreign(_SWIFT, "data.window", "rows"),
    "dataset_prepared_path": Foreign(_AXOLOTL, "data.cache"),
    "tokenized_path": Foreign(_FACTORY, "data.cache"),
    "cached_dataset": Foreign(_SWIFT, "data.cache"),
    "overwrite_cache": Foreign(_FACTORY, "", "other files or options make other tokens"),
    "dataset_processes": Foreign(_AXOLOTL, "", _CORES),
    "preprocessing_num_workers": Foreign(_FACTORY, "", _CORES),
    "dataset_num_proc": Foreign(_TRL, "", _CORES),
    "dataloader_num_workers": Foreign(_HF, "data.workers"),
    "attn_implementation": Foreign(_HF, "model.attention"),
    "flash_attention": Foreign(_AXOLOTL, "model.attention", "flash_attention_2"),
    "val_set_size": Foreign(_AXOLOTL, "data.held_out", _HELD_OUT),
    "val_size": Foreign(_FACTORY, "data.held_out", _HELD_OUT),
    "split_dataset_ratio": Foreign(_SWIFT, "data.held_out", _HELD_OUT),
    "val_split_fraction": Foreign("litgpt", "data.held_out", _HELD_OUT),
    "test_datasets": Foreign(_AXOLOTL, "eval.path", "or eval.tasks, with metrics of their own"),
    "eval_dataset": Foreign(_FACTORY, "eval.path", "or eval.tasks, with metrics of their own"),
    "val_dataset": Foreign(_SWIFT, "eval.path", "or eval.tasks, with metrics of their own"),
    "dataset_val": Foreign(_TUNE, "eval.path"),
    "validation_file": Foreign(_HF, "eval.path"),
    "eval_on_each_dataset": Foreign(_FACTORY, "eval.tasks", "one for each data set"),
    "max_eval_samples": Foreign(_HF, "eval.limit"),
    "eval_limit": Foreign(_SWIFT, "eval.limit"),
    "eval_batch_size": Foreign(_AXOLOTL, "eval.micro_size"),
    "eval.batch_size": Foreign(_TUNE, "eval.micro_size"),
    "per_device_eval_batch_size": Foreign(_HF, "eval.micro_size"),
    "predict_with_generate": Foreign(_FACTORY, "eval.tasks", "with metrics: exact_match"),
    "compute_accuracy": Foreign(_FACTORY, "eval.tasks", "with metrics: token_accuracy"),
    "eval_causal_lm_metrics": Foreign(_AXOLOTL, "eval.tasks", "with metrics"),
    "max_new_tokens": Foreign(_HF, "eval.tasks", "eval.tasks.NAME.max_new_tokens"),
    "generation_max_length": Foreign(_HF, "eval.tasks", "eval.tasks.NAME.max_new_tokens"),
    "eval_max_new_tokens": Foreign(_AXOLOTL, "eval.tasks", "eval.tasks.NAME.max_new_tokens"),
    "eval_table_size": Foreign(_AXOLOTL, "eval.samples"),
    "lm_eval_tasks": Foreign(_AXOLOTL, "", "run bigpeft eval RUN --harness TASK afterwards"),
    "early_stopping_patience": Foreign(_AXOLOTL, "eval.patience"),
    "early_stopping_threshold": Foreign(_HF, "eval.min_delta"),
    "metric_for_best_model": Foreign(_HF, "checkpoint.best", "such as eval_loss"),
    "greater_is_better": Foreign(_HF, "", "every metric knows which way is better"),
    "load_best_model_at_end": Foreign(_HF, "checkpoint.export", "best"),
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
    "evals_per_epoch": Foreign(_AXOLOTL, "train.evaluate_every", "in steps"),
    "run_val_every_n_steps": Foreign(_TUNE, "train.evaluate_every"),
    "eval_strategy": Foreign(_HF, "train.evaluate_every", "in steps"),
    "evaluation_strategy": Foreign(_HF, "train.evaluate_every", "in steps"),
    "do_eval": Foreign(_HF, "", "an eval section is evaluated"),
    "eval_on_start": Foreign(_HF, "", "a run is evaluated before its first step"),
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
"""Foreign key → ours; one with a dot is meant in that section alone. Keys that mean and are called
the same as ours need no entry.
"""


FOREIGN_METHODS = {"qlora": "write lora: weights are 4-bit unless model.weights is none"}
"""Names that other tools give to a method and the way its backbone is kept."""
