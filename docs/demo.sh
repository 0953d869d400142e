#!/bin/sh
# The demo, step by step: every line that begins with $ can be typed as it stands.
set -eu

step() {
    printf '\n\033[1m%s\033[0m\n' "$1" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9]*m//g'; fi
}
show() {
    printf '$ %s\n' "$*"
    "$@"
}
digest() {
    builder build demo --engine oci --output "oci:$1" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["digest"])'
}

step "1. The overlays, applied to the real files of the vLLM 0.20.0 wheel"
show builder check demo

step "2. The image, as an OCI layout in dist/demo"
show builder build demo --engine oci --output oci:dist/demo

step "3. Derived again from its lock: the same bytes?"
show builder verify oci:dist/demo --recipe demo

step "4. Built again elsewhere: the same digest"
again=$(mktemp -d)
trap 'rm -rf "$again"' EXIT
first=$(digest dist/demo)
second=$(digest "$again/demo")
echo "dist/demo            $first"
echo "a second build       $second"
test "$first" = "$second" || { echo "error: two builds differ" >&2; exit 4; }

step "5. A failure on purpose: the overlays in the wrong order"
echo "$ builder check overlays/demo/wrong-order.yaml"
code=0
builder check overlays/demo/wrong-order.yaml || code=$?
test "$code" = 3 || { echo "error: expected exit code 3, got $code" >&2; exit 1; }
echo "(exit code 3: nothing was written)"

step "Try next"
echo "  . .venv/bin/activate"
echo "  builder check demo --diff              # the change that the overlays make"
echo "  builder profile show smoke             # the pinned flags that 'docker run IMAGE smoke' serves with"
