#!/bin/sh
# The second demo: the real vLLM, in an image with overlays, answers on a machine without a GPU.
# Every line that begins with $ can be typed as it is, in dist/demo-serve.
set -eu

folder=dist/demo-serve
url=http://127.0.0.1:8765
python=$(command -v python)
here=$(pwd)

step() {
    printf '\n\033[1m%s\033[0m\n' "$1" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9]*m//g'; fi
}
show() {
    printf '$ %s\n' "$*" >&2
    (cd "$folder" && "$@")
}
engine() {
    (cd "$here" && "$python" -m tests.support.engine "$@")
}

step "1. vLLM 0.20.0 for CPUs as a base image, and a tiny model (kept for the next time)"
way=$(engine way)
mkdir -p "$folder"
engine project "$folder" "$way"

step "2. The image: the demo's two overlays on that base"
if [ "$way" = docker ]; then
    show builder build demo-serve --load
else
    show builder build demo-serve --engine oci --output oci:dist/demo-serve
fi

if [ "$way" = docker ]; then
    step "3. The real vLLM starts in a container, and smoke checks what the profile smoke-cpu promises"
    show builder smoke demo-serve smoke-cpu --gpus none --gpu cpu --keep --json > "$folder/dist/smoke.json"
    url=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["target"])' "$folder/dist/smoke.json")
    container=$(docker ps --quiet --filter "publish=${url##*:}")
    trap 'docker rm --force "$container" > /dev/null' EXIT

    step "4. Which overlays it has, and a question"
    engine ask "$url"

    step "5. The end: SIGTERM"
    docker stop --time 60 "$container" > /dev/null
else
    step "3. The real vLLM starts, with the profile smoke-cpu"
    engine unpack "$folder"
    log="$here/$folder/dist/server.log"
    printf '$ dist/root/opt/builder/serve smoke-cpu --port 8765    # the entrypoint of the unpacked image\n'
    (cd "$here" && exec "$python" -m tests.support.engine serve "$folder" smoke-cpu) > "$log" 2>&1 &
    server=$!
    trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true' EXIT
    engine wait "$url" "$server" || { tail -n 15 "$log" >&2; exit 1; }

    step "4. Which overlays it has, and a question"
    engine ask "$url"

    step "5. Does it do what its profile promises?"
    show builder smoke "$url" smoke-cpu --log dist/server.log --gpu cpu

    step "6. The end: SIGTERM"
    kill "$server"
    wait "$server" || true
    trap - EXIT
fi
echo "  ended"

step "Try next"
echo "  builder smoke --help"
echo "  docs/try-without-gpu.md                # the same, step by step"
