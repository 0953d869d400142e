"""Train the tiny model: a Qwen3 of two layers that knows its eighty-eight conversations by heart. Usage: train.py FOLDER

Run with the engine's own packages (torch, transformers). Everything is fixed (seed, threads, order), so that one machine
always writes the same bytes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

_THREADS = 1
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(_THREADS)

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM  # noqa: E402

from tests.support.engine.questions import Case, taught  # noqa: E402

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_TOKENS = 980
# With a higher rate the long prompts are learnt first and the short ones forgotten again: it takes twice the time.
_STEPS, _RATE, _GOOD, _BATCH = 400, 1e-3, 4e-3, 10
TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def tokenizer(known: list[Case]) -> Any:
    """A byte-level tokenizer of about 980 tokens, trained on what is taught."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    text = [str(message["content"]) for case in known for message in case.messages] + [case.answer for case in known]
    text += [json.dumps(tool, ensure_ascii=False) for case in known for tool in case.tools or ()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=_TOKENS, special_tokens=list(_SPECIAL), initial_alphabet=alphabet, show_progress=False
        ),
    )
    made.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in _MARKS])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=_SPECIAL[2], pad_token=_SPECIAL[0], chat_template=TEMPLATE.read_text(),
        model_max_length=4096,
    )  # fmt: skip


def batches(tok: Any, known: list[Case], end: int) -> list[dict[str, torch.Tensor]]:
    """The conversations by length, `_BATCH` in one; only the answers count."""
    pairs = []
    for case in known:
        prompt = tok.apply_chat_template(
            list(case.messages), tools=list(case.tools) if case.tools else None, add_generation_prompt=True,
            tokenize=False, enable_thinking=case.thinking,
        )  # fmt: skip
        encoded = [tok(text, add_special_tokens=False)["input_ids"] for text in (prompt, case.answer)]
        pairs.append((encoded[0], [*encoded[1], end]))
    pairs.sort(key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
    made = []
    for at in range(0, len(pairs), _BATCH):
        some = pairs[at : at + _BATCH]
        width = max(len(prompt) + len(said) for prompt, said in some)
        ids, labels = (torch.full((len(some), width), fill) for fill in (0, -100))
        mask = torch.zeros_like(ids)
        for row, (prompt, said) in enumerate(some):
            length = len(prompt) + len(said)
            ids[row, :length], mask[row, :length] = torch.tensor(prompt + said), 1
            labels[row, len(prompt) : length] = torch.tensor(said)
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


def train(folder: Path) -> None:
    """Write the checkpoint into `folder`."""
    torch.manual_seed(0)
    torch.set_num_threads(_THREADS)
    torch.use_deterministic_algorithms(True)
    known = taught()
    tok = tokenizer(known)
    end = tok.convert_tokens_to_ids(_SPECIAL[2])
    config = Qwen3Config(
        vocab_size=1024, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=4096, tie_word_embeddings=False, eos_token_id=end,
        bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    data = batches(tok, known, end)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.0)
    for step in range(_STEPS):
        losses = []
        for batch in data:
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        print(f"step {step + 1}: loss {max(losses):.4f}", flush=True)
        if max(losses) < _GOOD:
            break
    tok.save_pretrained(folder)
    config.architectures = ["Qwen3ForCausalLM"]
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    train(Path(sys.argv[1]))
