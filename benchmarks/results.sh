#!/usr/bin/env bash
# The runs of docs/results.md on real GLUE files with MiniLM, and their reports. What has finished is not run again.
# From the project's root, in its environment:  bash benchmarks/results.sh GLUE_FOLDER RUNS_FOLDER
# Then RUNS_FOLDER/mrpc-report and RUNS_FOLDER/stsb-report hold the tables, the figures and the claims.
set -euo pipefail
glue=$1 runs=$2
train() {
  python train.py -m backbone=minilm data=local "data.dir=$glue" logger=none "$@"
}
mrpc() {
  train task=mrpc "runs_dir=$runs/mrpc" "$@"
}
# Each module as long as its default says (eight epochs; full four, frozen ten), three seeds.
mrpc module=full,layernorm,attention,ffn,bias seed=1,2,3
mrpc module=frozen frozen_prefix=cache seed=1,2,3
# LayerNorms of one layer at a time.
mrpc module=layernorm layers=0,1,2,3,4,5 frozen_prefix=cache seed=1
# The largest, the smallest and as many random weights of each tensor of the last layer.
mrpc experiment=magnitude module=layernorm layers=5 frozen_prefix=cache
mrpc experiment=magnitude module=query,key,value,attention_output,intermediate,output layers=5 frozen_prefix=cache seed=1
# A second task: four epochs of 180 steps, of every module alike.
train task=stsb "runs_dir=$runs/stsb" module=full,layernorm,attention,ffn,bias seed=1 trainer.max_epochs=4
train task=stsb "runs_dir=$runs/stsb" module=frozen seed=1 frozen_prefix=cache
for task in mrpc stsb; do
  ptuning report "$runs/$task" --out "$runs/$task-report"
done
