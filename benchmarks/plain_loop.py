"""A plain PyTorch fine-tuning loop for GLUE: the yardstick for the framework's scores.

Nothing here comes from ptuning. It prints one JSON line per seed, for example:
    python benchmarks/plain_loop.py --model MODEL --data GLUE --task mrpc --module full --seeds 1 2 3
"""

import argparse
import json
import math
import re
import time
from pathlib import Path

import torch
import transformers
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch.nn.functional import cross_entropy, mse_loss
from transformers import AutoModelForSequenceClassification, AutoTokenizer

# task: folder, text columns, label column, label ids (None: a real number)
TASKS = {
    "rte": ("RTE", ("sentence1", "sentence2"), "label", {"entailment": 0, "not_entailment": 1}),
    "mrpc": ("MRPC", ("#1 String", "#2 String"), "Quality", {"0": 0, "1": 1}),
    "cola": ("CoLA", ("sentence",), "label", {"0": 0, "1": 1}),
    "stsb": ("STS-B", ("sentence1", "sentence2"), "score", None),
}
COLA_COLUMNS = ["source", "label", "star", "sentence"]  # train and dev of CoLA have no header

# module: the whole name, inside the backbone, of each parameter that trains; the head always trains as well
BLOCK = r"encoder\.layer\.\d+\."
MODULES = {
    "full": r".*",
    "frozen": r"(?!)",  # matches nothing
    "layernorm": BLOCK + r"(attention\.)?output\.LayerNorm\.(weight|bias)",
    "query": BLOCK + r"attention\.self\.query\.(weight|bias)",
    "bias": BLOCK + r".*\.bias",
    "ffn": BLOCK + r"(intermediate|output)\.dense\.(weight|bias)",
    "attention": BLOCK + r"attention\.(self\.(query|key|value)|output\.dense)\.(weight|bias)",
}


def read(args, tokenizer, split):
    """Return (unpadded token dictionary, label) pairs of one split; quotes are ordinary characters."""
    folder, text_columns, label_column, label_ids = TASKS[args.task]
    text = (Path(args.data) / folder / f"{split}.tsv").read_bytes().decode("utf-8-sig")  # drops MRPC's BOM
    lines = [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
    header = COLA_COLUMNS if args.task == "cola" else lines.pop(0).split("\t")
    rows = [dict(zip(header, line.split("\t"), strict=True)) for line in lines]
    labels = [float(row[label_column]) if label_ids is None else label_ids[row[label_column]] for row in rows]
    texts = [[row[column] for row in rows] for column in text_columns]
    encoded = tokenizer(*texts, truncation=True, max_length=args.max_length, padding=False)
    return [({k: encoded[k][i] for k in encoded}, label) for i, label in enumerate(labels)]


def batches(tokenizer, examples, size, order):
    """Yield (inputs padded to the longest of the batch, labels) in the given order; the last may be short."""
    for start in range(0, len(order), size):
        chosen = [examples[i] for i in order[start : start + size]]
        inputs = tokenizer.pad([tokens for tokens, _ in chosen], padding="longest", return_tensors="pt")
        yield inputs, torch.tensor([label for _, label in chosen])


def build(args, seed):
    """Load the model, give it a fresh head and freeze all but the chosen module and the head."""
    torch.manual_seed(seed)  # head and dropout
    labels = 1 if args.task == "stsb" else 2
    how = {"dtype": torch.float32, "local_files_only": True, "output_loading_info": True}
    model, info = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=labels, **how)
    if missing := set(info["missing_keys"]) - {"classifier.weight", "classifier.bias"}:
        raise SystemExit(f"the model folder lacks pretrained weights: {sorted(missing)}")
    torch.nn.init.normal_(model.classifier.weight, std=0.02)
    torch.nn.init.zeros_(model.classifier.bias)
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad = re.fullmatch(MODULES[args.module], name) is not None
    return model


def build_optimizer(model, lr, steps):
    """AdamW, no decay on biases and LayerNorm; linear warm-up over 6 % of the steps, then linear to 0."""
    groups = [{"params": [], "weight_decay": 0.01}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = groups[1] if name.endswith("bias") or "LayerNorm" in name else groups[0]
            group["params"].append(parameter)
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)
    warmup = math.ceil(0.06 * steps)

    def factor(step):
        return step / warmup if step < warmup else (steps - step) / max(1, steps - warmup)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def evaluate(model, tokenizer, examples, task):
    """Return the task's metrics on the dev set, with their mean (or the only one) as ``score``."""
    model.eval()
    outputs, labels = [], []
    with torch.no_grad():
        for inputs, truth in batches(tokenizer, examples, 64, range(len(examples))):
            logits = model(**inputs).logits
            outputs += (logits[:, 0] if task == "stsb" else logits.argmax(-1)).tolist()
            labels += truth.tolist()
    if task == "stsb":
        metrics = {"pearson": pearsonr(outputs, labels)[0], "spearman": spearmanr(outputs, labels)[0]}
    elif task == "cola":
        metrics = {"matthews": matthews_corrcoef(labels, outputs)}
    elif task == "mrpc":
        metrics = {"accuracy": accuracy_score(labels, outputs), "f1": f1_score(labels, outputs)}
    else:
        metrics = {"accuracy": accuracy_score(labels, outputs)}
    return metrics | {"score": sum(metrics.values()) / len(metrics)}


def run(args, seed, tokenizer, train, dev):
    """Train with one seed and return the record to print."""
    model = build(args, seed)
    steps = args.epochs * math.ceil(len(train) / args.batch_size)
    optimizer, schedule = build_optimizer(model, args.lr, steps)
    criterion = mse_loss if args.task == "stsb" else cross_entropy
    shuffler = torch.Generator().manual_seed(seed)
    history, seconds = [], 0.0
    for epoch in range(1, args.epochs + 1):
        started, total = time.perf_counter(), 0.0
        model.train()  # frozen parts too: dropout as in the model's config
        order = torch.randperm(len(train), generator=shuffler).tolist()
        for inputs, labels in batches(tokenizer, train, args.batch_size, order):
            outputs = model(**inputs).logits.squeeze(-1)  # STS-B: (batch,), otherwise (batch, 2)
            loss = criterion(outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(labels)
        seconds += time.perf_counter() - started  # training only, without evaluation
        metrics = evaluate(model, tokenizer, dev, args.task)
        history.append({"epoch": epoch, "loss": total / len(train)} | metrics)
    record = {k: getattr(args, k) for k in ("task", "module", "epochs", "lr", "batch_size")} | {"seed": seed}
    record["trainable"] = sum(p.numel() for p in model.base_model.parameters() if p.requires_grad)
    record["head"] = sum(p.numel() for p in model.classifier.parameters())
    record |= {"history": history, "best": max(h["score"] for h in history), "last": history[-1]["score"]}
    return record | {"train_seconds": seconds, "examples_per_second": args.epochs * len(train) / seconds}


def main():
    """Read the command line, then train and report each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a BERT with its tokenizer")
    parser.add_argument("--data", required=True, help="folder that holds RTE, MRPC, CoLA and STS-B")
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--module", required=True, choices=MODULES)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    for name, default in (("--epochs", 3), ("--batch-size", 32), ("--max-length", 128)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--limit", type=int, help="use only the first N training examples")
    parser.add_argument("--threads", type=int, help="PyTorch threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(args.model, local_files_only=True)
    train, dev = read(args, tokenizer, "train")[: args.limit], read(args, tokenizer, "dev")
    for seed in args.seeds:
        print(json.dumps(run(args, seed, tokenizer, train, dev)), flush=True)


if __name__ == "__main__":
    main()
