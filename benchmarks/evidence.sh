#!/usr/bin/env bash
# The runs behind docs/results.md, on real GLUE files. What has finished is not run again, so that it goes on after any stop.
# From the project's root, in its environment:  bash benchmarks/evidence.sh GLUE_FOLDER RUNS_FOLDER [BLOCK …]
# Blocks are A to H and L, in this order when none is named. F wants RUNS_FOLDER/all-mpnet-base-v2 (benchmarks/fetch_mpnet.py).
# SEEDS="2 3" takes those of block B alone: a record that is kept has no weights, so its run would be done again.
# Records, predictions and rankings are copied to docs/results/records after every sweep; `ptuning report` reads them there too.
set -euo pipefail
glue=$1 runs=$2
shift 2
keep=docs/results/records
rates() { echo "optim.lr=$(IFS=,; echo "$*")"; }
fixed=(data=local "data.dir=$glue" logger=none trainer.precision=32 data.select_on=holdout)
train() {  # FOLDER, then what is typed
  local folder=$1
  shift
  python train.py -m "${fixed[@]}" "runs_dir=$runs/$folder" "$@"
  keep_records "$folder"
}
yardsticks() {
  local folder=$1
  shift
  ptuning yardsticks "${fixed[@]}" "runs_dir=$runs/$folder" "$@"
  keep_records "$folder"
}
keep_records() {
  mkdir -p "$keep/$1"
  (cd "$runs/$1" && find . -path ./.sweeps -prune -o -type f \
    \( -name record.json -o -path '*/predictions/*' -o -path '*/rank/*' \) -print0 |
    tar --null --create --files-from -) | tar --extract --directory "$keep/$1"
}
minilm=(backbone=minilm)
elementary=query,key,value,attention_output,attention_layernorm,intermediate,output,output_layernorm

A() {  # yardsticks and the exact head of every task at hand; six pairs of rates for full fine-tuning
  for task in stsb mrpc rte cola sst2; do
    yardsticks yardsticks "${minilm[@]}" "task=$task"
    train yardsticks "${minilm[@]}" "task=$task" module=frozen
  done
  train stsb-full-rates "${minilm[@]}" task=stsb module=full trainer.max_epochs=4 seed=1 \
    "$(rates 0.00005 0.00015)" optim.head_lr=0.00015,0.001,0.01
}
B() {  # every module of a block and the groups; full at A's best rates, on held-out rows and on dev; STS-B, five seeds
  yardsticks stsb "${minilm[@]}" task=stsb
  train stsb "${minilm[@]}" task=stsb module=frozen seed=1,2,3,4,5
  for seed in ${SEEDS:-1 2 3 4 5}; do
    train stsb-full-rates "${minilm[@]}" task=stsb module=full trainer.max_epochs=4 "seed=$seed" \
      "$(rates 0.00005 0.00015)" optim.head_lr=0.01
    train stsb "${minilm[@]}" task=stsb trainer.max_epochs=4 "module=layernorm,bias,attention,ffn,$elementary" "seed=$seed"
  done
}
C() {  # LayerNorms of one layer, four rates, three seeds
  train stsb-layers "${minilm[@]}" task=stsb trainer.max_epochs=4 module=layernorm layers=0,1,2,3,4,5 frozen_prefix=cache \
    optim.head_lr=0.01 "$(rates 0.0015 0.005 0.015 0.05)" seed=1,2,3
}
D() {  # halves of LayerNorms; outliers and as many random weights; each at three rates
  train stsb-gain-bias "${minilm[@]}" experiment=gain_bias trainer.max_epochs=4
  train stsb-outliers "${minilm[@]}" experiment=outliers module=layernorm trainer.max_epochs=4
}
E() {  # as many weights of every module, four rates, one epoch
  train stsb-between "${minilm[@]}" experiment=between_modules trainer.max_epochs=1 "$(rates 0.001 0.005 0.025 0.125)"
}
F() {  # a second family, 3,000 rows, in bf16: two rates each for one epoch, the better on held-out rows with two seeds
  local mpnet=("backbone=$runs/all-mpnet-base-v2" task=stsb) few=(data.train_rows=3000 optim.head_lr=0.001 trainer.precision=bf16-mixed)
  yardsticks mpnet "${mpnet[@]}"
  search() { train mpnet-rates "${mpnet[@]}" "${few[@]}" trainer.max_epochs=1 seed=1 "$@"; }
  search module=layernorm,bias "$(rates 0.0015 0.005)"
  search module=layernorm "$(rates 0.0005)"
  search module=attention "$(rates 0.0001 0.0003)"
  search module=full "$(rates 0.00005 0.00015)"
  best() { train mpnet "${mpnet[@]}" "${few[@]}" trainer.max_epochs=3 trainer.check_val_every_n_epoch=3 seed=1,2 "$@"; }
  best module=layernorm,bias "$(rates 0.0015)"
  best module=attention "$(rates 0.0001)"
  best module=full "$(rates 0.00005)"
}
G() {  # a third task
  yardsticks sst2 "${minilm[@]}" task=sst2 data.train_rows=8000
  train sst2 "${minilm[@]}" task=sst2 data.train_rows=8000 module=full,layernorm,bias,attention,frozen seed=1,2,3
}
H() {  # the ranking before training, and precision
  ptuning rank "${minilm[@]}" "${fixed[@]}" task=stsb "runs_dir=$runs/stsb"
  keep_records stsb
  fixed=("${fixed[@]/trainer.precision=32/trainer.precision=bf16-mixed}")
  train stsb-bf16 "${minilm[@]}" task=stsb trainer.max_epochs=4 module=layernorm seed=1,2,3
  train stsb-bf16 "${minilm[@]}" task=stsb trainer.max_epochs=4 module=full optim.lr=0.00015 optim.head_lr=0.01 seed=1,2,3
}
L() {  # LoRA with as many weights as the LayerNorms have: rank 1 in query and value
  for seed in 1 2 3; do
    for rate in 0.0015 0.005 0.015; do
      python benchmarks/lora.py 1 query,value "${fixed[@]}" "${minilm[@]}" "runs_dir=$runs/stsb-lora" task=stsb \
        trainer.max_epochs=4 optim.head_lr=0.01 "optim.lr=$rate" "seed=$seed"
    done
  done
  keep_records stsb-lora
}
for block in "${@:-A B C D E F G H L}"; do
  for name in $block; do "$name"; done
done
