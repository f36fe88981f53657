"""`python -m benchmarks.models --size mid144 --data JSON --out DIR`: a LLaVA folder with random weights.

Shapes are those of LLaVA-1.5 made smaller. The tokenizer is trained on the texts of the data, so that lengths in tokens
are natural. The chat template writes BOS and EOS itself, which is what TRL's collator for images needs.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmsafe.data.example import Example
from mmsafe.data.readers.mmsafe_po import MMSafePO
from mmsafe.microworld.tiny_build import IMAGE, SPECIAL
from mmsafe.models.families.llava import make_processor


class Sizes(NamedTuple):
    """Shape of a LLaVA; a vision head and a language head are 64 and 32 or more wide."""

    image: int
    patch: int
    vision: int
    vision_layers: int
    vision_heads: int
    width: int
    inner: int
    layers: int
    heads: int
    vocabulary: int


SIZES = {
    "tiny": Sizes(64, 16, 64, 2, 2, 64, 176, 2, 2, 512),
    "mid144": Sizes(168, 14, 128, 4, 2, 256, 688, 6, 4, 4096),
    "wide144": Sizes(168, 14, 256, 6, 4, 512, 1376, 8, 8, 32000),
    "mid576": Sizes(336, 14, 256, 6, 4, 512, 1376, 8, 8, 32000),
}
"""16, 144, 144 and 576 image tokens; about 0.3, 8, 64 and 64 million parameters."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def write(
    name: str, examples: Sequence[Example], out: Path, template: str = CHAT_TEMPLATE
) -> LlavaForConditionalGeneration:
    """Write model, tokenizer and processor; the weights are the same each time."""
    config = write_parts(SIZES[name], examples, out, template)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
    model.save_pretrained(out)
    return model


def write_parts(sizes: Sizes, examples: Sequence[Example], out: Path, template: str = CHAT_TEMPLATE) -> LlavaConfig:
    """Write config, tokenizer and processor."""
    tokenizer = make_tokenizer(texts(examples), sizes.vocabulary)
    config = make_config(sizes, tokenizer)
    image_processor = LlavaImageProcessorPil(
        size={"shortest_edge": sizes.image}, crop_size={"height": sizes.image, "width": sizes.image}, do_pad=True
    )
    config.save_pretrained(out)
    make_processor(config, tokenizer, image_processor, template).save_pretrained(out)
    return config


def texts(examples: Iterable[Example]) -> Iterable[str]:
    """Every turn and response as it stands in a prompt."""
    for example in examples:
        yield from (f"{turn.role.upper()}: {turn.text} " for turn in example.turns)
        yield from (f"ASSISTANT: {response}" for response in example.responses.values())


def make_tokenizer(found: Iterable[str], vocabulary: int, named: Mapping[str, str] = MappingProxyType({})) -> Any:
    """Byte-level BPE of at most `vocabulary` tokens; `named` are special ones of a family, by their attributes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIAL.values(), *(named.values() or [IMAGE])],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(found, trainer)
    special = {f"{name}_token": token for name, token in SPECIAL.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special, extra_special_tokens=dict(named), clean_up_tokenization_spaces=False
    )


def make_config(sizes: Sizes, tokenizer: Any) -> LlavaConfig:
    """The features come from the last layer but one of the tower, as in LLaVA-1.5."""
    vision = CLIPVisionConfig(
        hidden_size=sizes.vision,
        intermediate_size=4 * sizes.vision,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_heads,
        image_size=sizes.image,
        patch_size=sizes.patch,
    )
    text = LlamaConfig(
        vocab_size=sizes.vocabulary,  # the tokenizer may have found fewer
        hidden_size=sizes.width,
        intermediate_size=sizes.inner,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(sizes.image // sizes.patch) ** 2,
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mid144")
    parser.add_argument("--data", type=Path, required=True, help="JSON in MMSafe-PO's format: trains the tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = write(args.size, MMSafePO(path=args.data, check_images="header").test().examples, args.out)
    millions, image = model.num_parameters() / 1e6, model.config.image_seq_length
    print(f"{args.out}: {millions:.1f} million parameters, {image} image tokens")


if __name__ == "__main__":
    main()
