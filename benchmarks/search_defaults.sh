#!/usr/bin/env bash
# Tries learning rates on real STS-B with MiniLM: one epoch (180 steps of 32 examples, warm-up and decay included), the
# head at 0.01 throughout. docs/defaults.md holds the table. What has finished is not run again.
# From the project's root, in its environment:  bash benchmarks/search_defaults.sh GLUE_FOLDER RUNS_FOLDER
set -euo pipefail
glue=$1 runs=$2
search() {
  python train.py -m backbone=minilm data=local "data.dir=$glue" task=stsb logger=none "runs_dir=$runs" \
    trainer.max_epochs=1 optim.head_lr=0.01 "module=$1" "optim.lr=$2"
}
# The likely rate of every module first, so that a search cut short still covers all of them.
search layernorm,bias 0.005
search value,query 0.001
search output 0.0005
search attention,ffn 0.0003
search frozen 0.01
search full 0.00015
search layernorm,bias 0.015
search value,query 0.003
search attention,ffn,output 0.001
search full 0.00005
search layernorm,bias 0.002
