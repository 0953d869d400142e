"""Examples of each command, printed behind its `--help`. A test parses every one of them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "list": ("builder list", "builder list --json"),
    "doctor": ("builder doctor", "builder doctor mine --report"),
    "init": (
        "builder init mine --pull 39931",
        "builder init mine --pull https://github.com/vllm-project/vllm/pull/41365 --base vllm/vllm-openai:v0.20.0",
        "builder init mine --pull 39931 --file fix.diff --checkpoint /models/ckpt --profile serve.yaml",
    ),
    "lock": ("builder lock mine", "builder lock mine --check", "builder lock mine --update 39931"),
    "check": ("builder check mine", "builder check mine --diff"),
    "render": ("builder render mine --output context", "builder render one two --output contexts --bake"),
    "build": ("builder build mine", "builder build mine --engine oci --output oci:out", "builder build mine --load"),
    "publish": ("builder publish mine --to ghcr.io/me/images", "builder publish mine --sign --move"),
    "verify": (
        "builder verify dist/mine",
        "builder verify ghcr.io/me/images:TAG --recipe mine",
        "builder verify oci:dist/mine --against oci:dist/other",
    ),
    "mirror": ("builder mirror mine --to ghcr.io/me/vllm",),
    "run": (
        "builder run mine smoke --model /models/ckpt",
        "builder run mine smoke --print",
        "builder run mine smoke -- --max-num-seqs 2",
    ),
    "smoke": (
        "builder smoke mine smoke --model /models/ckpt",
        "builder smoke http://127.0.0.1:8000 smoke --container NAME",
        "builder smoke http://10.0.0.7:8000/v1",
    ),
    "gate run": (
        "builder gate run http://127.0.0.1:8000 --suite sample",
        "builder gate run http://127.0.0.1:8000 production-ceiling --container vllm --suite hard-gate-34",
        "builder gate run mine smoke --suite hard-gate-34 --suite silver200",
    ),
    "gate lint": ("builder gate lint sample",),
    "gate import": ("builder gate import lm-eval results/samples.jsonl --suite sample",),
    "verdict show": (
        "builder verdict show ghcr.io/me/images@sha256:DIGEST",
        "builder verdict show dist/gate/sample.json --html page.html",
    ),
    "verdict adr": ("builder verdict adr dist/gate/sample.json --output docs/decision.md",),
    "attest": (
        "builder attest dist/gate/sample.json --image ghcr.io/me/images@sha256:DIGEST --key signing.pem",
        "builder attest dist/gate/sample.json --image ghcr.io/me/images@sha256:DIGEST --keyless",
    ),
    "promote": (
        "builder promote ghcr.io/me/images@sha256:DIGEST --to production --policy gates/production.yaml --key signing.pem",
        "builder promote ghcr.io/me/images:candidate --to production --require hard-gate-34,silver200 --dry-run",
    ),
    "deploy compose": ("builder deploy compose mine smoke --image ghcr.io/me/images@sha256:DIGEST --output deploy",),
    "deploy kubernetes": ("builder deploy kubernetes mine --image ghcr.io/me/images@sha256:DIGEST --output -",),
    "deploy helm": ("builder deploy helm mine --image ghcr.io/me/images@sha256:DIGEST --output deploy",),
    "deploy kserve": ("builder deploy kserve mine --image ghcr.io/me/images@sha256:DIGEST --output deploy",),
    "deploy quadlet": ("builder deploy quadlet mine --image ghcr.io/me/images@sha256:DIGEST --output deploy",),
    "deploy llama-swap": ("builder deploy llama-swap mine --image ghcr.io/me/images@sha256:DIGEST --output deploy",),
    "deploy promoted": ("builder deploy promoted mine router",),
    "deploy router": (
        "builder deploy router mine --short smoke@http://10.0.0.7:8000 --long http://10.0.0.8:8000 --output router",
    ),
    "profile list": ("builder profile list", "builder profile list --recipe mine"),
    "profile show": ("builder profile show smoke", "builder profile show smoke --resolved --recipe mine"),
    "profile lint": ("builder profile lint smoke --recipe mine",),
    "profile import": (
        "builder profile import recipe.yaml --hardware h200",
        "builder profile import --from-command 'vllm serve Qwen/Qwen3-8B --max-model-len 16384'",
    ),
    "profile fit": ("builder profile fit mine smoke --gpu rtx-5090",),
    "drift": ("builder drift mine", "builder drift mine --markdown"),
    "rebase": (
        "builder rebase mine --base vllm/vllm-openai:v0.32.0",
        "builder rebase mine --base vllm/vllm-openai:v0.32.0 --write",
    ),
    "stack export": ("builder stack export mine --output stack",),
    "stack import": ("builder stack import debian/patches --recipe mine",),
    "checkpoint digest": ("builder checkpoint digest /models/ckpt",),
    "checkpoint quantize": ("builder checkpoint quantize /models/bf16 /models/fp8",),
    "checkpoint check": ("builder checkpoint check /models/ckpt --recipe mine",),
    "schema": ("builder schema profile > profile.schema.json",),
    "completion": (
        'eval "$(builder completion bash)"',
        'eval "$(builder completion zsh)"',
        "builder completion fish | source",
    ),
    "help": ("builder help", "builder help profile lint"),
}
