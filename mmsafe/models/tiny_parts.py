"""Parts of tiny models with random weights: a tokenizer of bytes, and towers and language models of a few layers."""

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedTokenizerFast

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
VISION: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
CHAT = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ 'PLACEHOLDER' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tokenizer(named: Mapping[str, str], *others: str, image: str = "image_token") -> Any:
    """A tokenizer of single bytes with these special tokens, as attributes by their names; chats like LLaVA's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [*SPECIAL.values(), *dict.fromkeys([*named.values(), *others])]
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **SPECIAL,
        extra_special_tokens=dict(named),
        clean_up_tokenization_spaces=False,
        chat_template=CHAT.replace("PLACEHOLDER", named[image]),
    )


def sized(words: Any) -> dict[str, Any]:
    """Sizes of a language model for a tokenizer."""
    ids = {f"{name}_id": getattr(words, f"{name}_id") for name in ("pad_token", "bos_token", "eos_token")}
    return {**TEXT, "vocab_size": len(words), **ids}


def llama(words: Any) -> LlamaConfig:
    """A Llama of three layers."""
    return LlamaConfig(**sized(words))


def clip() -> CLIPVisionConfig:
    """A CLIP tower that sees 4 x 4 patches."""
    return CLIPVisionConfig(**VISION, image_size=28, patch_size=7)
