#!/usr/bin/env bash
# Usage: scripts/setup.sh VENV GROUP...
# Makes the virtual environment VENV if needed and installs the dependency groups of pyproject.toml.
# Needs only python3 >= 3.11 (and cargo, for everything that follows); says in one line what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
shift

missing() {
    echo "submerge: $1" >&2
    exit 1
}

command -v cargo >/dev/null || missing "cargo is missing: install Rust from https://rustup.rs"
python=${PYTHON:-python3}
command -v "$python" >/dev/null || missing "$python is missing: install Python 3.11 or newer"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    missing "$("$python" --version) is too old: Python 3.11 or newer is needed (set PYTHON=/path/to/python)"

# The interpreter is the sentinel, not the folder: a half-made environment is made again.
if ! "$venv/bin/python" -c '' 2>/dev/null; then
    rm -rf "$venv"
    if command -v uv >/dev/null; then
        uv venv --quiet --python "$python" "$venv"
    else
        "$python" -m venv "$venv" || missing "$python has no venv module: install python3-venv"
    fi
fi

if command -v uv >/dev/null; then
    uv=uv
else
    [ -x "$venv/bin/uv" ] || "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
    uv=$venv/bin/uv
fi

# The base dependencies too, so that an editable install afterwards resolves nothing.
groups=()
for group in "$@"; do groups+=(--group "$group"); done
"$uv" pip install --quiet --python "$venv/bin/python" --requirements pyproject.toml "${groups[@]}"
