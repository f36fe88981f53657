"""Kept vision features: later epochs skip tower and decoding, with the same numbers; bounded, and never stale."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import fitted, on_cpu

from mmsafe.core.errors import UserError
from mmsafe.core.settings import VisionCache
from mmsafe.data.example import Example
from mmsafe.microworld.reader import MicroWorld
from mmsafe.microworld.tiny import TinyModel
from mmsafe.microworld.tiny_options import Architecture
from mmsafe.models.family import ImageBatch, family_of
from mmsafe.models.vlm import VLM
from mmsafe.objectives.dpo import DPO
from mmsafe.reference.reference import Cached
from mmsafe.scoring.collate import Item
from mmsafe.scoring.features import DiskFeatures, FeatureCache, MemoryFeatures, feature_cache, features_key
from mmsafe.scoring.vision import tower_features
from mmsafe.scoring.ways import SharedPrefix
from mmsafe.training.optimizers.adamw import AdamW

SIZES = Architecture(
    image_size=24, patch_size=8, vision_width=16, vision_layers=1, width=32, layers=1, heads=2, vocabulary=512
)
SCORING = SharedPrefix()
BYTES = 9 * 16 * 4  # 9 patches of width 16, fp32


@pytest.fixture(scope="module")
def base() -> VLM:
    return TinyModel(pretraining=None, architecture=SIZES).load()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Images that were decoded."""
    from mmsafe.models.encoding import Encoder

    names: list[str] = []
    original = Encoder.image_inputs

    def image_inputs(self: Encoder, images: Any) -> Any:
        names.extend(image.key for image in images)
        return original(self, images)

    monkeypatch.setattr(Encoder, "image_inputs", image_inputs)
    return names


def pictured() -> list[Example]:
    return [e for e in MicroWorld(size=20, image_size=24, neutral_share=0).train().examples if e.images][:6]


def scored(llava: VLM, examples: list[Example], cache: FeatureCache | None) -> Any:
    collator = SCORING.collator(llava.encoder(), DPO().groups, features=cache)
    batch = SCORING.with_features(llava.model, collator([Item(e) for e in examples]), cache)
    with torch.no_grad():
        return SCORING.log_probs(llava.model, batch)


def caches(folder: Path) -> list[FeatureCache]:
    return [MemoryFeatures(1 << 30), DiskFeatures(folder, 1 << 30)]


@pytest.mark.parametrize("layers", [-2, 1, [-2, -1]], ids=str)
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_any_layer_and_strategy_of_a_checkpoint(layers: Any, strategy: str):
    llava = TinyModel(pretraining=None, architecture=dataclasses.replace(SIZES, vision_layers=2)).load()
    config = llava.model.config
    config.vision_feature_layer, config.vision_feature_select_strategy = layers, strategy
    model = type(llava.model)(config)
    pixels = torch.randn(2, 3, 24, 24)
    seen = tower_features(model, ImageBatch({"pixel_values": pixels}, (1, 1)))
    made = family_of("llava").connect(model, seen, [])
    expected: Any = model.model.get_image_features(pixels).pooler_output
    torch.testing.assert_close([image.tokens for image in made], list(expected))


@pytest.mark.parametrize("kind", [0, 1], ids=["memory", "disk"])
def test_what_is_kept_is_not_decoded_again_and_scores_the_same(
    base: VLM, tmp_path: Path, decoded: list[str], kind: int
):
    cache, examples = caches(tmp_path)[kind], pictured()
    plain = scored(base, examples, None)
    del decoded[:]
    for keep in ([examples[2], examples[4]], examples, examples[::-1], examples):
        found = scored(base, keep, cache)
    assert len(decoded) == len({e.images for e in examples})
    for name, row in plain.items():
        torch.testing.assert_close(found[name].log_probs, row.log_probs, atol=1e-6, rtol=1e-6)


def test_disk_features_outlive_the_process(base: VLM, tmp_path: Path, decoded: list[str]):
    scored(base, pictured(), DiskFeatures(tmp_path, 1 << 30))
    del decoded[:]
    scored(base, pictured(), DiskFeatures(tmp_path, 1 << 30))
    assert decoded == []


@pytest.mark.parametrize("kind", [0, 1], ids=["memory", "disk"])
def test_a_full_cache_keeps_what_it_has_and_says_so_once(
    base: VLM, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: int
):
    limit = 2 * BYTES + 400  # a safetensors file has a header
    cache = [MemoryFeatures(limit), DiskFeatures(tmp_path, limit)][kind]
    images = list(dict.fromkeys(e.images[0] for e in pictured()))
    for _ in range(2):
        found = scored(base, pictured(), cache)
    assert sum(cache.get(image.key) is not None for image in images) == 2 < len(images)
    assert caplog.text.count("vision_cache: full") == 1
    for name, row in scored(base, pictured(), None).items():
        torch.testing.assert_close(found[name].log_probs, row.log_probs, atol=1e-6, rtol=1e-6)


def test_a_damaged_file_is_named(base: VLM, tmp_path: Path):
    scored(base, pictured(), DiskFeatures(tmp_path, 1 << 30))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"\.safetensors: is damaged .*delete it"):
        scored(base, pictured(), DiskFeatures(tmp_path, 1 << 30))


def changed(**attributes: Any) -> Callable[[VLM], None]:
    def change(llava: VLM) -> None:
        for name, value in attributes.items():
            setattr(llava.model.config, name, value)

    return change


def other_tower(llava: VLM) -> None:
    with torch.no_grad():
        next(llava.model.model.vision_tower.parameters()).add_(1e-3)


def other_processor(llava: VLM) -> None:
    llava.processor.image_processor.image_mean = [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    "change",
    [
        other_tower,
        other_processor,
        changed(vision_feature_layer=-2),
        changed(vision_feature_select_strategy="full"),
        lambda llava: llava.model.to(torch.bfloat16),
    ],
    ids=["tower", "processor", "layer", "strategy", "dtype"],
)
def test_each_part_of_the_key(base: VLM, change: Callable[[VLM], Any]):
    other = VLM(copy.deepcopy(base.model), copy.deepcopy(base.processor), base.source)
    assert features_key(other, "32-true") == features_key(base, "32-true")
    change(other)
    assert features_key(other, "32-true") != features_key(base, "32-true")
    assert features_key(base, "bf16-mixed") != features_key(base, "32-true")


@pytest.mark.parametrize(("store", "workers"), [("memory", 0), ("disk", 2)])
def test_training_with_a_cache_ends_at_the_same_weights(base: VLM, decoded: list[str], store: Any, workers: int):
    ends = []
    for kept in ("none", store):
        llava = dataclasses.replace(base, model=copy.deepcopy(base.model))
        features = feature_cache(VisionCache(store=kept), llava, "32-true")
        del decoded[:]
        fitted(
            llava,
            pictured(),
            objective=DPO(),
            scoring=SCORING,
            reference=Cached().policy(llava, SCORING, "32-true"),
            optimizer=AdamW(lr=1e-3, warmup_steps=0),
            trainer=on_cpu(max_epochs=3),
            batch_size=2,
            num_workers=workers,
            features=features,
            seed=0,
        )
        ends.append(llava.model.state_dict())
        if kept == store and not workers:
            assert len(decoded) == len({e.images for e in pictured()}), "once in three epochs"
    plain, cached = ends
    for name, weight in plain.items():
        torch.testing.assert_close(cached[name], weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [0, 1], ids=["memory", "disk"])
def test_what_is_there_is_not_counted_again(tmp_path: Path, kind: int):
    cache = caches(tmp_path)[kind]
    for _ in range(3):
        cache.put("key", torch.ones(9, 16))
    assert cache.size == BYTES


def test_a_full_disk_ends_the_keeping_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmsafe.scoring.features.save_file", full)
    cache = DiskFeatures(tmp_path, 1 << 30)
    for key in ("a", "b"):
        cache.put(key, torch.ones(9, 16))
    assert caplog.text.count("nothing more is kept") == 1
    assert list(tmp_path.iterdir()) == []
