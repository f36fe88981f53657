"""Checkpoints of each family: read as `transformers` saved them, written as it reads them, refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import QUICK, launch, succeed
from small_model import Noise
from transformers import AutoModelForImageTextToText

from mmsafe.core.errors import UserError
from mmsafe.core.settings import Generation
from mmsafe.data.example import Example, Turn
from mmsafe.estimate.shape import measured
from mmsafe.generation.generate import Prompt, generate, left_padded
from mmsafe.microworld.tiny import TinyModel
from mmsafe.models.encoding import Encoder
from mmsafe.models.family import Family, families
from mmsafe.models.model_source import Pretrained
from mmsafe.models.processors import COUNTS, UnreadVideo
from mmsafe.models.vlm import VLM, weights_hash

END = "<unk>"
TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{{ 'PLACEHOLDER' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ '<unk>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
"""As ChatML is: a turn ends with a token of its own, which is not the tokenizer's end of sequence."""
VIDEO = {"fps": 3}
QUICK_ONES = ("gemma3", "qwen3_vl")
"""Families whose whole way is walked without `-m slow`, too."""
EXAMPLES = [
    Example("a", (Turn("user", "What is this?", (0,)),), (Noise(1),), {"chosen": "It is red"}),
    Example("b", (Turn("user", "Hello"), Turn("assistant", "you"), Turn("user", "Who?")), (), {"chosen": "me"}),
]


@pytest.fixture(params=families(), ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


def tiny(family: Family) -> VLM:
    llava = TinyModel(pretraining=None, family=family.name).load()
    llava.processor.chat_template = TEMPLATE.replace("PLACEHOLDER", llava.processor.image_token)
    if hasattr(llava.processor, "video_processor"):
        llava.processor.video_processor = UnreadVideo(VIDEO)
    return llava


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text()) if path.exists() else {}
    change(value)
    path.write_text(json.dumps(value))


def write_apart(llava: VLM, folder: Path) -> None:
    """A file for each part of the processor, as `transformers` wrote them before version 5."""
    processor = llava.processor
    llava.model.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    processor.tokenizer.chat_template = None
    processor.tokenizer.save_pretrained(folder)
    options = {name: value for name, value in processor.to_dict().items() if not isinstance(value, dict)}
    for name, content in {
        "processor_config": options,
        "chat_template": {"chat_template": processor.chat_template},
        "video_preprocessor_config": VIDEO,
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def inputs(encoder: Encoder) -> list[Any]:
    """Ids and pixels of examples."""
    prompts = [encoder.prompt_ids(example) for example in EXAMPLES]
    responses = [encoder.response_ids(example.responses["chosen"]) for example in EXAMPLES]
    (image,) = encoder.image_inputs(EXAMPLES[0].images)
    return [prompts, responses, {name: tensor.tolist() for name, tensor in image.tensors.items()}]


@torch.no_grad()
def logits(model: Any, encoder: Encoder) -> torch.Tensor:
    return model(**left_padded(encoder, EXAMPLES, model.config)).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("apart", [False, True], ids=["one file", "a file for each part"])
def test_what_transformers_saved_is_read_as_it_was(family: Family, apart: bool, tmp_path: Path):
    made = tiny(family)
    write_apart(made, tmp_path / "a") if apart else made.save(tmp_path / "a")
    source = Pretrained(path=str(tmp_path / "a"))
    llava = source.load()
    assert weights_hash(llava.model) == weights_hash(made.model)
    assert inputs(llava.encoder()) == inputs(source.encoder()) == inputs(made.encoder())
    assert torch.equal(logits(llava.model.eval(), llava.encoder()), logits(made.model.eval(), made.encoder()))
    if not apart:
        assert llava.fingerprint() == made.fingerprint()
    llava.save(tmp_path / "b")
    written = json.loads((tmp_path / "b" / "processor_config.json").read_text())
    assert written.get("video_processor", VIDEO) == VIDEO, "goes along unread"
    assert Pretrained(path=str(tmp_path / "b")).load().fingerprint() == llava.fingerprint()


def test_a_response_ends_as_the_template_ends_a_turn(family: Family):
    llava = tiny(family)
    encoder, tokenizer = llava.encoder(), llava.processor.tokenizer
    end = tokenizer.convert_tokens_to_ids(END)
    assert encoder.response_ids("Yes")[-1] == end != tokenizer.eos_token_id
    assert llava.ends() == [end, tokenizer.eos_token_id]
    settings = Generation(max_new_tokens=6, temperature=0, image_view="real")
    batch = left_padded(encoder, EXAMPLES[:1], llava.model.config)
    said = llava.model.generate(**batch, max_new_tokens=6, do_sample=False)[0, batch["input_ids"].shape[1] :].tolist()
    llava.model.generation_config.eos_token_id = [said[2]]
    ((_, answer),) = next(iter(generate(llava, [Prompt(EXAMPLES[0])], settings)))
    assert answer.finished
    assert answer.text == encoder.decode(said[: said.index(said[2])])


@pytest.mark.parametrize(
    "family",
    [pytest.param(it, id=it.name, marks=[pytest.mark.slow] * (it.name not in QUICK_ONES)) for it in families()],
)
def test_what_is_trained_is_exported_read_by_transformers_and_evaluated(family: Family, tmp_path: Path):
    """The whole way on the command line, with two steps of training."""
    words = (*QUICK, f"model.family={family.name}", "evaluate=false", "trainer.max_steps=2", "optimizer.lr=0.01")
    cache = tmp_path / "cache"
    for command, *options in (
        ("train", *words, "objective=bpo", "hydra.run.dir=run"),
        ("export", "checkpoint=run", "out=out", "format=hf"),
        ("evaluate", *words[:1], *words[2:4], *words[6:9], "checkpoint=run", "hydra.run.dir=evaluated"),
        ("doctor", *words[:1], f"model.family={family.name}"),
    ):
        succeed(command, *options, cwd=tmp_path, cache=cache)
    assert (tmp_path / "evaluated" / "metrics.json").is_file()
    start, llava = tiny(family), Pretrained(path=str(tmp_path / "run")).load()
    assert weights_hash(llava.model) != weights_hash(start.model)
    for folder in (tmp_path / "run" / "model", tmp_path / "out"):
        plain = AutoModelForImageTextToText.from_pretrained(folder)
        assert torch.equal(logits(plain.eval(), start.encoder()), logits(llava.model.eval(), start.encoder()))
    refused = launch("export", "checkpoint=run", "out=other", "format=original", cwd=tmp_path, cache=cache)
    assert refused.status == 2
    assert refused.err.count("\n") == 1


def test_the_doctor_counts_every_weight_once(family: Family):
    model = tiny(family).model
    shape = measured(model, 7)
    assert shape.total == sum(weight.numel() for weight in model.parameters())
    linear = [
        module
        for name, module in model.get_submodule(family.parts.language[0]).named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    assert shape.matrices == sum(module.weight.numel() for module in linear)
    assert shape.adapter(4) == 4 * sum(module.in_features + module.out_features for module in linear)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    for family in families():
        tiny(family).save(folder / family.name)
    return folder


HUGE = 10**9
DAMAGE: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    r"model_type fuyu: no family of it is known; known are gemma3, idefics3, internvl, llava, ": (
        "config.json",
        lambda value: value.update(model_type="fuyu"),
    ),
    r"'.*' is token [0-9]+ of its tokenizer, config.json says 3": (
        "config.json",
        lambda value: value.update(image_token_id=3, image_token_index=3),
    ),
    r"its tokenizer has [0-9]+ tokens, config.json says 50|is token": (
        "config.json",
        lambda value: value["text_config"].update(vocab_size=50),
    ),
    r"config.json asks for [0-9]+ weights, its files hold": (
        "config.json",
        lambda value: value["text_config"].update(vocab_size=HUGE),
    ),
    r"images are scaled to .*1000000000": (
        "processor_config.json",
        lambda value: value["image_processor"]["size"].update(dict.fromkeys(value["image_processor"]["size"], HUGE)),
    ),
    r"no token that ends a response": ("tokenizer_config.json", lambda value: value.update(eos_token=None)),
}


@pytest.mark.parametrize("told", DAMAGE)
def test_what_does_not_fit_is_one_line(family: Family, saved: Path, told: str, tmp_path: Path):
    folder = Path(shutil.copytree(saved / family.name, tmp_path / "damaged"))
    file, damage = DAMAGE[told]
    edited(folder / file, damage)
    with pytest.raises(UserError, match=rf"^model.path=\S+: .*{told}") as error:
        Pretrained(path=str(folder)).load()
    assert "\n" not in str(error.value)


def test_absurd_counts_are_told_before_they_take_memory(family: Family, saved: Path, tmp_path: Path):
    if family.name == "llava":
        pytest.skip("its counts are those of its config, whatever its processor says")
    folder = Path(shutil.copytree(saved / family.name, tmp_path / "damaged"))

    def damage(value: dict[str, Any]) -> None:
        for section in (value, value["image_processor"]):
            section.update({name: HUGE for name in COUNTS if isinstance(section.get(name), int)})

    edited(folder / "processor_config.json", damage)
    with pytest.raises(UserError, match=r"images are scaled to .*1000000000.*, and 4096 is the most"):
        Pretrained(path=str(folder)).encoder()


@pytest.mark.parametrize(
    ("template", "told"), [("{{ 'hello' }}", "shows no image"), ("", "has no chat template; set model.chat_template")]
)
def test_a_template_has_to_show_images(family: Family, saved: Path, template: str, told: str, tmp_path: Path):
    folder = Path(shutil.copytree(saved / family.name, tmp_path / "damaged"))
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=told):
        Pretrained(path=str(folder)).encoder()
    shown = tmp_path / "shown.jinja"
    shown.write_text((saved / family.name / "chat_template.jinja").read_text())
    assert Pretrained(path=str(folder), chat_template=shown).encoder().image_tokens > 0


def test_only_llava_crops(family: Family, saved: Path):
    """And `pad`, which is the default, changes nothing for those that have their own way."""
    for source in (
        Pretrained(path=str(saved / family.name), image_aspect_ratio="crop"),
        TinyModel(pretraining=None, family=family.name, image_aspect_ratio="crop"),
    ):
        if family.name == "llava":
            assert source.load().processor.image_processor.do_pad is False
        else:
            with pytest.raises(UserError, match=r"makes images its own way; model\.image_aspect_ratio=crop is for"):
                source.load()


def test_code_and_pickles_of_a_checkpoint_are_never_run(family: Family, saved: Path, tmp_path: Path):
    folder, trace = Path(shutil.copytree(saved / family.name, tmp_path / "evil")), tmp_path / "trace"
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\nclass Evil: ...\n")
    roles = ("AutoConfig", "AutoProcessor", "AutoImageProcessor", "AutoModelForImageTextToText", "AutoVideoProcessor")
    for file in ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        edited(folder / file, lambda value: value.update(auto_map=dict.fromkeys(roles, "evil.Evil")))
    edited(folder / "processor_config.json", lambda value: value.update(audio_tokenizer={"audio_tokenizer_class": "A"}))
    Pretrained(path=str(folder)).load()
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"its weights are pickled \(pytorch_model\.bin\)"):
        Pretrained(path=str(folder)).load()
    assert not trace.exists()


def test_a_family_that_is_not_known_is_told_before_anything_is_built(tmp_path: Path):
    ended = launch("train", *QUICK, "model.family=fuyu", cwd=tmp_path, cache=tmp_path)
    assert ended.status == 2
    assert 'model.family="fuyu": no such family; known are gemma3, internvl, llava, llava_next, ' in ended.err
    ended = launch("train", "model=tiny", "model.family=gemma3", cwd=tmp_path, cache=tmp_path)
    assert "only the LLaVA of the micro-world is pre-trained; use model=random" in ended.err
