#!/usr/bin/env bash
# Usage: scripts/check_wheel.sh FOLDER
# The one wheel in FOLDER is small, installs into an empty environment and merges there.
set -euo pipefail
folder=$(cd "$1" && pwd)
shopt -s nullglob
wheels=("$folder"/*.whl)
[ "${#wheels[@]}" = 1 ] || { echo "$folder: expected 1 wheel, got ${#wheels[@]}" >&2; exit 1; }
wheel=${wheels[0]}

case $wheel in
    *-cp311-abi3-*) ;;
    *) echo "$wheel: expected an abi3 wheel for CPython 3.11 and newer" >&2; exit 1 ;;
esac
size=$(wc -c <"$wheel")
[ "$size" -lt 5000000 ] || { echo "$wheel: $size bytes, expected fewer than 5000000" >&2; exit 1; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" # outside the source tree, so that only the installed package can be imported
"${UV:-uv}" venv --quiet --python "${PYTHON:-python3}" empty
"${UV:-uv}" pip install --quiet --python empty/bin/python "$wheel"
empty/bin/submerge --version
for file in page/page.css page/page.js studio/page/studio.html studio/page/studio.css studio/page/studio.js studio/page/curve.js; do
    [ -s empty/lib/python3*/site-packages/submerge/"$file" ] || { echo "$wheel: $file is missing" >&2; exit 1; }
done
empty/bin/submerge demo --quiet --keep pair
empty/bin/submerge merge pair/schnell pair/krea.safetensors --alpha 0.3 --quiet -o merged.safetensors
empty/bin/submerge verify --quiet merged.safetensors
echo "$(basename "$wheel"): $size bytes, installs into an empty environment and merges there"
