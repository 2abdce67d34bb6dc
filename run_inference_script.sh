#!/usr/bin/env bash
# Table 8: networks trained with CLIF and with LIF, each run as LIF with a soft reset and six hard ones.
#
#   ./run_inference_script.sh CLIF_CKPT LIF_CKPT [CLIF_CKPT2 LIF_CKPT2]
#
# Without arguments it takes logs/digits_CLIF/checkpoint_max.pth, which the README's main job leaves behind, and
# logs/digits_LIF/checkpoint_max.pth if it is there. The table goes to $OUT_DIR (default: logs/table8).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
out_dir=${OUT_DIR:-logs/table8}
fail() { echo "run_inference_script.sh: error: $1" >&2; exit 2; }

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
  [[ -f $checkpoint ]] || fail "no checkpoint at $checkpoint"
done

sweeps=()
for checkpoint in "${checkpoints[@]}"; do
  "$python" "$here/inference.py" -resume "$checkpoint" -sweep
  name=$(basename "$checkpoint")
  sweeps+=("$(dirname "$checkpoint")/inference/${name%.*}/sweep.json")
done
PYTHONPATH=$here "$python" -m deploy.table8 -sweeps "${sweeps[@]}" -out_dir "$out_dir"
echo "table: $out_dir"
