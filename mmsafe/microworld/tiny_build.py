"""Builds and pre-trains the tiny LLaVA of `model=tiny`."""

import dataclasses
import inspect
import logging
from types import ModuleType
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, PreTrainedTokenizerFast
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmsafe.core.cache import cached_folder
from mmsafe.core.settings import Trainer
from mmsafe.data.example import digest
from mmsafe.microworld import drawings, icons, language, pretraining, prior, things, tower, world
from mmsafe.microworld.tiny_options import VISION_HEADS, Architecture, TinyOptions
from mmsafe.microworld.tower import pretrain_tower
from mmsafe.models.families.llava import make_processor
from mmsafe.models.family import family_of
from mmsafe.models.model_options import Trained
from mmsafe.models.model_source import Pretrained
from mmsafe.models.pretrained import in_one_line, new_model
from mmsafe.models.vlm import VLM, chosen_template, set_trained
from mmsafe.objectives.sft import SFT
from mmsafe.scoring.ways import SharedPrefix
from mmsafe.training.fit import fit
from mmsafe.training.optimizers.adamw import AdamW
from mmsafe.training.preference_data import PreferenceData
from mmsafe.training.recipe import Batching, Loss, Recipe

log = logging.getLogger(__name__)

SPECIAL = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}
IMAGE = "<image>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
MADE_FROM: tuple[ModuleType, ...] = (drawings, icons, language, pretraining, things, world, tower)


def load_tiny(source: TinyOptions) -> VLM:
    """Random weights, or the pre-trained model from the cache, made there when missing."""
    if source.pretraining is None:
        return build(source)
    folder = cached_folder("models", f"tiny-{_key(source)}", lambda path: pretrain(source).save(path))
    loaded = Pretrained(
        path=str(folder),
        train=source.train,
        append_eos=source.append_eos,
        image_aspect_ratio=source.image_aspect_ratio,
        learning_rate=source.learning_rate,
    )
    return dataclasses.replace(loaded.load(), source=source)


def build(source: TinyOptions) -> VLM:
    """A model of a family with random weights and its processor; that of LLaVA knows the words of the micro-world."""
    config, processor = parts(source)
    with in_one_line(f"model.family={source.family}"):
        family_of(config.model_type).square(processor.image_processor, source.image_aspect_ratio)
    processor.chat_template = _template(source, processor.tokenizer.chat_template)
    with torch.random.fork_rng():
        torch.manual_seed(source.seed)
        model = new_model(config)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(model.generation_config, name, getattr(processor.tokenizer, name))
    set_trained(model, source.train)
    return VLM(model, processor, source)


def parts(source: TinyOptions) -> tuple[Any, Any]:
    """Config and processor."""
    if source.family is not None:
        return family_of(source.family).tiny()
    tokenizer = make_tokenizer(source.architecture.vocabulary)
    config, size = make_config(source.architecture, tokenizer), source.architecture.image_size
    images = LlavaImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return config, make_processor(config, tokenizer, images)


def make_tokenizer(vocabulary: int) -> Any:
    """Byte-level BPE trained on the micro-world: its words are single tokens, any other text still round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIAL.values(), IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sentences = pretraining.corpus()  # a sentence begins a line, or follows `ASSISTANT:` and a space
    tokenizer.train_from_iterator([*sentences, *(f" {sentence}" for sentence in sentences)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{name}_token": token for name, token in SPECIAL.items()},
        clean_up_tokenization_spaces=False,
    )


def make_config(sizes: Architecture, tokenizer: Any) -> LlavaConfig:
    """A LlavaConfig in the proportions of LLaVA-1.5."""
    vision = CLIPVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=3 * sizes.vision_width,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=VISION_HEADS,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        projection_dim=64,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        intermediate_size=5 * sizes.width // 2,
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
        image_seq_length=(sizes.image_size // sizes.patch_size) ** 2,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )


def pretrain(source: TinyOptions) -> VLM:
    """Teach a random model: its tower to see, then all the rest to chat by the project's own SFT."""
    assert source.pretraining is not None
    log.info("building model=tiny once (seed %d); it is cached for later runs", source.seed)
    vlm = build(source)
    stages, size = source.pretraining, source.architecture.image_size
    seen = pretrain_tower(vlm.model.model.vision_tower, vlm.encoder(), size, stages.tower, source.seed)
    log.info("the vision tower tells %.1f %% of the icons", 100 * seen)
    set_trained(vlm.model, Trained())
    examples = pretraining.pretraining_examples(source.seed, stages.chat.examples, image_size=size)
    examples = prior.with_prior(examples, stages.prior, source.seed)
    recipe = Recipe(
        AdamW(lr=stages.chat.lr, weight_decay=0.01, beta2=0.98, warmup_steps=0.06),
        Trainer(max_epochs=stages.chat.epochs, accelerator="cpu", precision="32-true"),
        Batching(stages.chat.batch_size, group_by_length=True),
        source.seed,
    )
    loss = Loss(SFT(), SharedPrefix())
    fit(vlm.model, PreferenceData(vlm, examples, loss, recipe), loss, recipe)
    set_trained(vlm.model, source.train)
    return vlm


def _template(source: TinyOptions, default: str | None = None) -> str:
    return (default or CHAT_TEMPLATE) if source.chat_template is None else chosen_template(source.chat_template)


def _key(source: TinyOptions) -> str:
    """Everything the weights depend on: sizes, recipe, seed, the world's code, and the libraries that compute."""
    made_from = [inspect.getsource(module) for module in MADE_FROM]
    stages = dataclasses.asdict(source.pretraining)  # type: ignore[arg-type]
    if (chosen := stages.pop("prior")) != "cue":  # whose key is older than the choice
        made_from += [chosen, inspect.getsource(prior)]
    recipe = [source.seed, dataclasses.asdict(source.architecture), stages]
    aspect = source.image_aspect_ratio
    return digest(
        [recipe, aspect, source.append_eos, _template(source), made_from, torch.__version__, transformers.__version__]
    )[:16]
