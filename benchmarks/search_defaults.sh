#!/usr/bin/env bash
# What docs/defaults.md shows, on real GLUE files with MiniLM, seed 1. What has finished is not run again.
# From the project's root, in its environment:  bash benchmarks/search_defaults.sh GLUE_FOLDER RUNS_FOLDER
# Then:  python benchmarks/table.py RUNS_FOLDER/rates   (and RUNS_FOLDER/lengths)
set -euo pipefail
glue=$1 runs=$2
train() {
  python train.py -m backbone=minilm data=local "data.dir=$glue" logger=none trainer.precision=32 "$@"
}
# Rates: one epoch of STS-B (180 steps of 32 examples, warm-up and decay included), the head at 0.01. Every module has the
# same budget: three rates, each three times the one before. Its likely rate comes first, so that a search cut short still
# covers all of them.
rates() {
  train task=stsb trainer.max_epochs=1 optim.head_lr=0.01 "runs_dir=$runs/rates" "module=$1" "optim.lr=$2"
}
rates layernorm,bias,attention_layernorm,output_layernorm 0.005
rates query,key,value,attention_output,embeddings 0.001
rates intermediate,output 0.0005
rates attention,ffn 0.0003
rates frozen,pooler 0.01
rates layernorm,bias,attention_layernorm,output_layernorm 0.0015,0.015
rates query,key,value,attention_output,embeddings 0.0003,0.003
rates intermediate,output 0.00015,0.0015
rates attention,ffn 0.0001,0.001
rates frozen,pooler 0.003,0.03
rates attention_layernorm,output_layernorm 0.01  # between two that are level
# Full fine-tuning has one rate for backbone and head, as is customary.
train task=stsb trainer.max_epochs=1 "runs_dir=$runs/rates" module=full optim.lr=0.00005,0.00015,0.0005
# Batch size: the same epoch in twice and in half as many steps.
train task=stsb trainer.max_epochs=1 "runs_dir=$runs/rates" module=layernorm task.batch_size=16,64
# Length: as many epochs as the defaults have, to see whether the last ones still help.
train task=cola "runs_dir=$runs/lengths" module=layernorm optim.lr=0.005
train task=rte "runs_dir=$runs/lengths" module=layernorm
