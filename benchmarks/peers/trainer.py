"""Fine-tune on RTE with Hugging Face's Trainer and PEFT's LNTuningConfig, by run_glue's conventions.

Rows are padded to 128 tokens (``--pad_to_max_length``, run_glue's default), or grouped by length.
"""

import torch
from peft import LNTuningConfig, get_peft_model
from rte import CLIP, EVAL_BATCH_SIZE, WARMUP, WEIGHT_DECAY, Clock, freeze, layernorms, load_model, parser, read, report
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)


class TrainingClock(TrainerCallback):
    """Counts the epochs' seconds; the evaluation comes after ``on_epoch_end``."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_epoch_begin(self, *args, **kwargs) -> None:
        """Begin to count."""
        self.clock.start()

    def on_epoch_end(self, *args, **kwargs) -> None:
        """Stop counting."""
        self.clock.stop()


def main() -> None:
    """Train, evaluate, save."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--group-by-length", action="store_true")
    arguments.add_argument("--bf16", action="store_true")
    arguments.add_argument("--torch-compile", action="store_true")
    chosen = arguments.parse_args()
    set_seed(chosen.seed)
    tokenizer = AutoTokenizer.from_pretrained(chosen.model)
    train, dev = read(chosen.data, tokenizer, False if chosen.group_by_length else "max_length")
    model = load_model(chosen)
    if chosen.module == "layernorm":
        # PEFT's default for BERT would be every LayerNorm, that of the embeddings included.
        model = get_peft_model(model, LNTuningConfig(task_type="SEQ_CLS", target_modules=layernorms(chosen.layer)))
    else:
        freeze(model, chosen.module, chosen.layer)
    settings = TrainingArguments(
        output_dir=str(chosen.output),
        per_device_train_batch_size=chosen.batch_size,
        per_device_eval_batch_size=EVAL_BATCH_SIZE,
        num_train_epochs=chosen.epochs,
        learning_rate=chosen.lr,
        weight_decay=WEIGHT_DECAY,
        warmup_steps=WARMUP,
        max_grad_norm=CLIP,
        train_sampling_strategy="group_by_length" if chosen.group_by_length else "random",
        bf16=chosen.bf16,
        torch_compile=chosen.torch_compile,
        use_cpu=not torch.cuda.is_available(),  # which bf16 asks for by name
        eval_strategy="epoch" if chosen.evaluate == "epoch" else "no",
        save_strategy="no",
        seed=chosen.seed,
        report_to="none",
    )
    clock = TrainingClock()
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=train,
        eval_dataset=dev,
        data_collator=DataCollatorWithPadding(tokenizer) if chosen.group_by_length else default_data_collator,
        compute_metrics=lambda answers: {"accuracy": float((answers[0].argmax(-1) == answers[1]).mean())},
        callbacks=[clock],
    )
    trainer.train()
    if chosen.evaluate == "end":
        trainer.evaluate()
    trainer.save_model()
    scores = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
    precision = "bf16-mixed" if chosen.bf16 else "32-true"
    report(chosen, clock.clock, chosen.epochs * len(train), scores, precision, model)


if __name__ == "__main__":
    main()
