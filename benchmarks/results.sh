#!/usr/bin/env bash
# The runs of docs/results.md on real GLUE files with MiniLM, and their reports. What has finished is not run again.
# From the project's root, in its environment:  bash benchmarks/results.sh GLUE_FOLDER RUNS_FOLDER
# RUNS_FOLDER/mrpc-report, stsb-report and stsb-one-epoch-report then hold the tables, the figures and the claims.
# The page's part on one epoch of STS-B for each module is search_defaults.sh's.
set -euo pipefail
glue=$1 runs=$2
train() {
  python train.py -m backbone=minilm data=local "data.dir=$glue" logger=none trainer.precision=32 "$@"
}
mrpc() {
  train task=mrpc "runs_dir=$runs/mrpc" "$@"
}
stsb() {
  train task=stsb "runs_dir=$runs/stsb" trainer.max_epochs=4 "$@"
}
stsb_one_epoch() {
  train task=stsb "runs_dir=$runs/stsb-one-epoch" trainer.max_epochs=1 "$@"
}
# Each module as long as its default says (eight epochs; full fine-tuning four, the head alone ten), three seeds.
mrpc module=full,layernorm,attention,ffn,bias seed=1,2,3
mrpc module=frozen optim.head=trained frozen_prefix=cache seed=1,2,3
# LayerNorms of one layer at a time; value matrices of the last.
mrpc module=layernorm layers=0,1,2,3,4,5 frozen_prefix=cache seed=1
mrpc module=value layers=5 frozen_prefix=cache seed=1
# Four epochs for every module.
stsb module=full,layernorm,attention,ffn,bias,frozen seed=1
# The largest, the smallest and as many random weights of each tensor: of the last layer, and of all layers.
mrpc experiment=magnitude module=layernorm layers=5 frozen_prefix=cache optim.lr=null optim.head_lr=null
mrpc experiment=magnitude module=query,key,value,attention_output,intermediate,output layers=5 frozen_prefix=cache \
  subset=top:1%,bottom:1%,random:1% seed=1 optim.lr=null optim.head_lr=null
stsb_one_epoch module=layernorm subset=all,top:10%,bottom:10%,random:10% seed=1,2,3
stsb_one_epoch module=value,intermediate subset=top:1%,bottom:1%,random:1% seed=1
stsb_one_epoch module=frozen frozen_prefix=cache seed=1,2,3
for runs_of in mrpc stsb stsb-one-epoch; do
  ptuning report "$runs/$runs_of" --out "$runs/$runs_of-report"
done
