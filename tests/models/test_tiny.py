"""`model=tiny`: a real LLaVA that plain `transformers` loads, built once and cached under what it is made from."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, LlavaForConditionalGeneration

from mmsafe.core.settings import Generation
from mmsafe.generation.generate import Prompt, generate
from mmsafe.microworld import icons, tiny_build
from mmsafe.microworld.reader import MicroWorld
from mmsafe.microworld.things import COLOURS, THINGS
from mmsafe.microworld.tiny import TinyModel
from mmsafe.microworld.tiny_options import Architecture, Pretraining, PretrainingStage
from mmsafe.models.model_options import Trained
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.vlm import VLM, weights_hash

SIZES = Architecture(
    image_size=32, patch_size=16, vision_width=16, vision_layers=1, width=32, layers=1, heads=2, vocabulary=512
)
SHORT = PretrainingStage(examples=8, epochs=1, batch_size=4, lr=1e-3)
SOURCE = TinyModel(
    architecture=SIZES,
    pretraining=Pretraining(tower=SHORT, chat=SHORT),
)


def changed(options: Any, /, **changes: Any) -> Any:
    return dataclasses.replace(options, **changes)


@pytest.fixture(scope="module")
def saved(llava: VLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    llava.save(folder)
    return folder


def test_it_is_a_real_llava_of_a_million_parameters(llava: VLM):
    assert type(llava.model) is LlavaForConditionalGeneration
    assert 500_000 < sum(parameter.numel() for parameter in llava.model.parameters()) < 3_000_000
    assert llava.model.config.image_seq_length == llava.encoder().image_tokens == 16
    tokenizer, generation = llava.processor.tokenizer, llava.model.generation_config
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert [generation.pad_token_id, generation.bos_token_id, generation.eos_token_id] == ids
    assert len({*ids, llava.model.config.image_token_id}) == 4
    assert not [word for word in (*THINGS, *COLOURS) if len(tokenizer.tokenize(f" {word}")) > 1]


def test_random_weights_are_a_function_of_the_seed():
    source = TinyModel(architecture=SIZES, pretraining=None)
    torch.manual_seed(1)
    first = source.load()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1)), "building leaves the global generator as it was"
    assert source.load().fingerprint() == first.fingerprint()
    assert weights_hash(changed(source, seed=1).load().model) != weights_hash(first.model)


def test_plain_transformers_loads_the_saved_folder_and_says_the_same(llava: VLM, saved: Path):
    """No torchvision needed: `AutoProcessor` falls back to the image processor on Pillow."""
    model = LlavaForConditionalGeneration.from_pretrained(saved)
    processor = AutoProcessor.from_pretrained(saved)
    example = MicroWorld(size=1).train().examples[0]
    text = processor.apply_chat_template(example.messages(), tokenize=False, add_generation_prompt=True).rstrip()
    assert text == llava.encoder().prompt_text(example)
    inputs = processor(text=processor.tokenizer.bos_token + text, images=example.images[0].load(), return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == llava.encoder().prompt_ids(example)
    assert torch.equal(inputs["pixel_values"][0], llava.encoder().pixels(example.images[0]))
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    said = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    asked = Generation(max_new_tokens=12, temperature=0, image_view="real")
    ((_, response),) = next(iter(generate(llava, [Prompt(example)], asked)))
    assert said
    assert said == response.text


def test_saving_loading_and_using_a_model_keep_its_fingerprint(tmp_path: Path):
    llava = TinyModel(architecture=SIZES, pretraining=None).load()
    before = llava.fingerprint()
    llava.save(tmp_path)
    llava.processor(text=["one", "and two"], padding=True)
    assert before == llava.fingerprint() == PretrainedLlava(path=str(tmp_path)).load().fingerprint()


@pytest.mark.parametrize("part", ["weights", "processor", "template", "end of response"])
def test_the_fingerprint_depends_on_everything_a_response_depends_on(part: str):
    llava = TinyModel(architecture=SIZES, pretraining=None).load()
    before = llava.fingerprint()
    if part == "weights":
        with torch.no_grad():
            llava.model.lm_head.weight[0, 0] += 1e-3
    elif part == "processor":
        llava.processor.image_processor.do_pad = False
    elif part == "template":
        llava.processor.chat_template += " "
    else:
        llava = changed(llava, source=changed(llava.source, append_eos=False))
    assert llava.fingerprint() != before


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_any_text_survives_the_tokenizer(llava: VLM, text: str):
    tokenizer = llava.processor.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("trained", [Trained(), Trained(language=False, vision=True)])
def test_only_chosen_parts_ask_for_gradients(trained: Trained):
    model = TinyModel(architecture=SIZES, pretraining=None, train=trained).load().model
    wanted = {
        "model.vision_tower": trained.vision,
        "model.multi_modal_projector": trained.projector,
        "model.language_model": trained.language,
        "lm_head": trained.language,
    }
    for name, parameter in model.named_parameters():
        (part,) = (part for part in wanted if name.startswith(f"{part}."))
        assert parameter.requires_grad == wanted[part], name


def test_pretraining_happens_once_and_the_cache_gives_the_same_model(monkeypatch: pytest.MonkeyPatch, own_cache: Path):
    built = SOURCE.load()
    assert weights_hash(built.model) != weights_hash(tiny_build.build(SOURCE).model), "it was trained"
    torch.rand(3)  # whatever was drawn before does not matter
    assert weights_hash(tiny_build.pretrain(SOURCE).model) == weights_hash(built.model)

    def never(source: TinyModel) -> VLM:
        raise AssertionError("trained again")

    monkeypatch.setattr(tiny_build, "pretrain", never)
    again = SOURCE.load()
    assert again.fingerprint() == built.fingerprint()
    assert again.source == SOURCE
    monkeypatch.setenv("MMSAFE_CACHE", str(own_cache / "elsewhere"))
    with pytest.raises(AssertionError, match="trained again"):
        SOURCE.load()
    left = [path for path in (own_cache / "elsewhere" / "models").iterdir() if path.is_dir()]
    assert not left, "a failed build leaves nothing that a later run would take for a model"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[TinyModel]:
    """What was built, with a build that takes no time."""
    found: list[TinyModel] = []

    def build(source: TinyModel) -> VLM:
        found.append(source)
        return tiny_build.build(source)

    monkeypatch.setattr(tiny_build, "pretrain", build)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},
        {"append_eos": False},
        {"image_aspect_ratio": "crop"},
        *(
            {"architecture": changed(SIZES, **{name: 2 * getattr(SIZES, name)})}
            for name in ("width", "layers", "heads")
        ),
        *({"pretraining": changed(SOURCE.pretraining, chat=changed(SHORT, **{n: 5}))} for n in ("examples", "epochs")),
        *({"pretraining": changed(SOURCE.pretraining, prior=prior)} for prior in ("uniform", "harmless")),
        *({"pretraining": changed(SOURCE.pretraining, tower=changed(SHORT, **{n: 5}))} for n in ("batch_size", "lr")),
    ],
    ids=str,
)
def test_what_the_weights_depend_on_makes_another_model(builds: list[TinyModel], options: dict[str, Any]):
    other = changed(SOURCE, **options)
    for source in (SOURCE, other, SOURCE, other):
        source.load()
    assert builds == [SOURCE, other]


class OtherTorch:
    """Torch under another version."""

    __version__ = "0.0"

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(tiny_build, "CHAT_TEMPLATE", tiny_build.CHAT_TEMPLATE + " "),
        lambda patch: patch.setattr(tiny_build, "torch", OtherTorch()),
        lambda patch: patch.setattr("transformers.__version__", "0.0"),
        lambda patch: patch.setattr(
            tiny_build.inspect, "getsource", lambda module: "changed" if module is icons else "as it was"
        ),
    ],
    ids=["chat template", "torch", "transformers", "the world's code"],
)
def test_code_that_made_the_weights_makes_another_model(
    builds: list[TinyModel], monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
):
    SOURCE.load()
    with monkeypatch.context() as patch:
        change(patch)
        tiny_build.load_tiny(SOURCE)
    SOURCE.load()
    assert len(builds) == 2


def test_what_the_weights_do_not_depend_on_makes_no_other_model(builds: list[TinyModel]):
    SOURCE.load()
    other = changed(SOURCE, learning_rate=1.0, train=Trained(language=False))
    llava = other.load()
    assert builds == [SOURCE]
    assert llava.source == other
    assert not llava.model.lm_head.weight.requires_grad, "…but is applied to the cached model"
