#!/usr/bin/env bash
# Searches a learning rate for every module on real STS-B with MiniLM: three rates each, a factor of about three
# apart, the same budget for all (96 steps of 32 examples). docs/defaults.md holds the table.
# From the project's root, in its environment:  bash benchmarks/search_defaults.sh GLUE_FOLDER RUNS_FOLDER
set -euo pipefail
glue=$1 runs=$2
search() {
  python train.py -m backbone=minilm data=local "data.dir=$glue" task=stsb logger=none "runs_dir=$runs" \
    trainer.limit_train_batches=48 trainer.max_epochs=2 \
    trainer.check_val_every_n_epoch=2 "module=$1" "optim.lr=$2"
}
# The middle of every range first, so that a search cut short still covers all modules.
for part in 2 1 3; do
  pick() { cut -d, -f"$part" <<< "$1"; }
  search layernorm,attention_layernorm,output_layernorm,bias "$(pick 0.0015,0.005,0.015)"
  search full "$(pick 0.00005,0.00015,0.0005)"
  search query,key "$(pick 0.0005,0.0015,0.005)"
  search value,attention_output,embeddings "$(pick 0.0003,0.001,0.003)"
  search intermediate,output "$(pick 0.0002,0.0005,0.0015)"
  search attention,ffn "$(pick 0.0001,0.0003,0.001)"
  search frozen,pooler "$(pick 0.001,0.003,0.01)"
done
