#!/usr/bin/env bash
# Searches learning rates on real STS-B with MiniLM: three rates per module, a factor of about three apart, the same
# budget for all (one epoch, 180 steps of 32 examples, warm-up and decay included). docs/defaults.md holds the table.
# From the project's root, in its environment:  bash benchmarks/search_defaults.sh GLUE_FOLDER RUNS_FOLDER
set -euo pipefail
glue=$1 runs=$2
search() {
  python train.py -m backbone=minilm data=local "data.dir=$glue" task=stsb logger=none "runs_dir=$runs" \
    trainer.max_epochs=1 "module=$1" "optim.lr=$2"
}
# The middle of every range first, so that a search cut short still covers all modules. Dense modules want rates near
# full fine-tuning's: at 1e-3 and above the feed-forward output and the projections did not learn.
for part in 2 3 1; do
  pick() { cut -d, -f"$part" <<< "$1"; }
  search query,value,output "$(pick 0.0001,0.0003,0.001)"
  search attention,ffn,full "$(pick 0.00005,0.00015,0.0005)"
  search layernorm,bias "$(pick 0.002,0.005,0.015)"
  search frozen "$(pick 0.003,0.01,0.03)"
done
