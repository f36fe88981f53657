"""Tiny checkpoints of guards: a random one, and one that says a fixed reply to whatever it is asked."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

LLAMA3 = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|image|>", "<|python_tag|>"]
MISTRAL = ["<s>", "</s>"]
WORDS = ["safe", "unsafe"]
WIDTH = 32

LLAMA_GUARD_3_VISION = """\
{%- if messages | length % 2 == 0 %}{%- set role = 'Agent' %}{%- else %}{%- set role = 'User' %}{%- endif %}
{{- '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\n' }}
{%- set ns = namespace(contains_image=false) %}
{%- for message in messages %}
{%- for content in message['content'] | selectattr('type', 'equalto', 'image') %}
{%- set ns.contains_image = true %}
{%- endfor %}
{%- endfor %}
{%- if ns.contains_image %}{{- '<|image|> ' }}{%- endif %}
{{- "Task: Check if there is unsafe content in '" + role + "' messages.\\n\\n<BEGIN CONVERSATION>\\n\\n" }}
{%- for message in messages %}
{%- set role = 'User' if message['role'] == 'user' else 'Agent' %}
{%- for content in message['content'] | selectattr('type', 'equalto', 'text') %}
{{- role + ': ' + content['text'] | trim + '\\n\\n' }}
{%- endfor %}
{%- endfor %}
{{- '<END CONVERSATION>\\n\\nFirst line must read safe or unsafe. ' }}
{{- '<|eot_id|><|start_header_id|>assistant<|end_header_id|>' }}
"""
"""The published template's ways (arXiv 2411.10414): contents as parts, the image in front, no line after the header."""
LLAMA_GUARD_3_TEXT = (
    "{{ '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n' }}"
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'].strip() + '\n\n' }}{% endfor %}"
    "{{ '<|eot_id|><|start_header_id|>assistant<|end_header_id|>' }}"
)
"""As that of Llama Guard 3-8B: contents as plain texts."""


def tokenizer(special: list[str], chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Bytes, and `safe` and `unsafe` as tokens of their own."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("s", "a"), ("sa", "f"), ("saf", "e"), ("u", "n"), ("un", "safe")]
    tokens = [*special, *letters, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=special[0], eos_token=special[1])
    found.add_special_tokens({"additional_special_tokens": special[2:]})
    found.chat_template = chat_template
    return found


def write_text(folder: Path, kind: str = "mistral", reply: str | None = None, template: str | None = None) -> Path:
    """A text guard: `mistral` like MD-Judge v0.1 and WildGuard, `llama` like Llama Guard 3."""
    words = tokenizer(MISTRAL if kind == "mistral" else LLAMA3, template)
    sizes: dict[str, Any] = {
        "vocab_size": len(words),
        "hidden_size": WIDTH if reply is None else 512,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16384,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.bos_token_id,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    model: Any = (
        MistralForCausalLM(MistralConfig(**sizes)) if kind == "mistral" else LlamaForCausalLM(LlamaConfig(**sizes))
    )
    if reply is not None:
        last = "<|end_header_id|>" if kind == "llama" else "\n" if "\n" in reply else "]"
        say(model, words, last, reply)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def write_vision(folder: Path, reply: str | None = None, scale: dict[str, float] | None = None) -> Path:
    """Llama Guard 3 Vision: Mllama with gates open, so that the image counts."""
    words = tokenizer(LLAMA3)
    width = WIDTH if reply is None else 512
    config = MllamaConfig(
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
        text_config={
            "vocab_size": len(words),
            "hidden_size": width,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "cross_attention_layers": [1],
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.bos_token_id,
            "initializer_range": 0.3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
            "vision_output_dim": 48,
            "intermediate_layers_indices": [0, 1],
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
            "max_num_tiles": 4,
            "initializer_range": 0.3,
        },
    )
    torch.manual_seed(0)
    model = MllamaForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "gate" in name and weight.numel() == 1:
                weight.fill_(1.0)
    if reply is not None:
        say(model, words, "<|end_header_id|>", reply, scale)
    model.save_pretrained(folder)
    images = MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=4)
    MllamaProcessor(images, words, chat_template=LLAMA_GUARD_3_VISION).save_pretrained(folder)
    return folder


def say(model: Any, words: Any, last: str, reply: str, first: dict[str, float] | None = None) -> None:
    """Make the model say `reply` after a prompt that ends with the token `last`: each token decides the next.

    Every layer adds nothing, embeddings are unit vectors of their own, and the head maps each to its successor. `first`
    gives the logits of the first token in place of certainty; all others are 0.
    """
    text = [words.convert_tokens_to_ids(last), *words.encode(reply, add_special_tokens=False), words.eos_token_id]
    language = getattr(model.model, "language_model", model.model)
    head, embedding = model.lm_head.weight, language.embed_tokens.weight
    assert len(set(text[:-1])) == len(text) - 1, "a token that occurs twice has two successors"
    with torch.no_grad():
        for name, weight in language.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
        embedding.zero_()
        embedding.fill_diagonal_(1.0)
        head.zero_()
        height = head.shape[1] ** 0.5  # of the one coordinate that RMSNorm leaves
        for token, successor in pairwise(text):
            head[successor, token] = 40 / height
        if first is not None:
            head[:, text[0]] = 0
            for word, logit in first.items():
                head[words.convert_tokens_to_ids(word), text[0]] = logit / height
