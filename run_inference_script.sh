#!/usr/bin/env bash
# Table 8: networks trained with CLIF and with LIF, each run as LIF with a soft reset and six hard ones.
#
#   ./run_inference_script.sh CLIF_CKPT LIF_CKPT [CLIF_CKPT2 LIF_CKPT2]
#
# Each may be zoo:NAME, a network of the zoo. Without arguments it takes logs/digits_CLIF/checkpoint_max.pth, which the
# README's main job leaves behind, and logs/digits_LIF/checkpoint_max.pth if it is there. The table goes to $OUT_DIR
# (default: logs/table8).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
out_dir=${OUT_DIR:-logs/table8}
fail() { echo "run_inference_script.sh: error: $1" >&2; exit 2; }
# a module of the project, and not one of its name in the folder where this is started (-P)
module() { PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} "$python" -P -m "$@"; }

if (($# == 0)); then
  clif=logs/digits_CLIF/checkpoint_max.pth lif=logs/digits_LIF/checkpoint_max.pth
  train="python train_BPTT.py -dataset digits -model snn5_noAP -T 4 -b 64 -epochs 15 -T_max 15"
  [[ -f $clif ]] || fail "no $clif; make it with: $train -neuron CLIF -name digits_CLIF"
  checkpoints=("$clif")
  if [[ -f $lif ]]; then
    checkpoints+=("$lif")
  else
    echo "no $lif, so the LIF-trained row is left out; make it with: $train -neuron LIF -name digits_LIF"
  fi
elif (($# == 2 || $# == 4)); then
  checkpoints=("$@")
else
  fail "usage: ./run_inference_script.sh CLIF_CKPT LIF_CKPT [CLIF_CKPT2 LIF_CKPT2]"
fi
for checkpoint in "${checkpoints[@]}"; do
  [[ $checkpoint == zoo:* || -f $checkpoint ]] || fail "no checkpoint at $checkpoint"
done

places=$(module deploy.sweeps "${checkpoints[@]}")  # ends here if they make no table, rather than after the sweeps
mapfile -t sweeps <<<"$places"
for checkpoint in "${checkpoints[@]}"; do
  "$python" "$here/inference.py" -resume "$checkpoint" -sweep
done
module deploy.table8 -sweeps "${sweeps[@]}" -out_dir "$out_dir"
echo "table: $out_dir"
