"""Files of a stranger's checkpoint: no code of theirs runs, and whatever is damaged is told in one line."""

import ast
import builtins
import json
import random
import re
import resource
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import guard_folder
import original_folder
import pytest
from transformers import BertConfig, BertForTokenClassification

import mmsafe
from mmsafe.core.errors import UserError
from mmsafe.core.settings import Peft
from mmsafe.curation.build.entities import TokenClassification
from mmsafe.estimate.shape import shape_of
from mmsafe.evaluation.judges.guard import Guard
from mmsafe.microworld.tiny import TinyModel
from mmsafe.microworld.tiny_options import Architecture
from mmsafe.models.adapters import add_lora
from mmsafe.models.model_source import PretrainedLlava

SIZES = Architecture(
    image_size=16, patch_size=8, vision_width=16, vision_layers=1, width=32, layers=1, heads=2, vocabulary=512
)
CODE = "import pathlib\npathlib.Path({trace!r}).touch()\nclass Evil: ...\n"
ROLES = ("AutoConfig", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor", "AutoModelForCausalLM")
KINDS = ("hf", "original", "tower", "adapter", "guard", "tagger")


def load(kind: str, folder: Path) -> None:
    """All that a command would load of the checkpoint, and what `mmsafe.inspect` and `mmsafe.doctor` read of it."""
    if kind == "guard":
        from mmsafe.evaluation.judges.local_model import LocalModel

        judge = Guard(model=str(folder), family="llama_guard", accelerator="cpu", dtype="float32")
        judge.check()
        LocalModel(judge)
    elif kind == "tagger":
        list(TokenClassification(path=str(folder)).find(["Rome"]))
    else:
        source = PretrainedLlava(path=str(folder))
        source.encoder()
        if kind != "adapter":
            shape_of(source)
        source.load()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole checkpoint of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    llava = TinyModel(architecture=SIZES, pretraining=None).load()
    llava.save(folder / "hf")
    llava.source = PretrainedLlava(path=str(folder / "hf"))
    add_lora(llava, Peft(method="lora", rank=2))
    llava.adapter.save_pretrained(folder / "adapter")
    original_folder.write_original(folder / "original", shards=2)
    without = original_folder.weights(tower=False)
    original_folder.write_original(folder / "tower", without)  # which is read from beside
    guard_folder.write_text(folder / "guard", "llama", template=guard_folder.LLAMA_GUARD_3_TEXT)
    words = guard_folder.tokenizer(guard_folder.LLAMA3)
    words.pad_token = words.eos_token
    words.save_pretrained(folder / "tagger")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForTokenClassification(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder / "tagger")
    return folder


def copied(place: Path, kind: str, to: Path) -> Path:
    return Path(shutil.copytree(place / kind, to / kind))


def outcome(kind: str, folder: Path) -> str | None:
    """What is wrong with it, as one short line; None where it loads."""
    try:
        load(kind, folder)
    except UserError as error:
        said = str(error)
        assert "\n" not in said
        assert len(said) < 700
        assert str(folder) in said
        return said
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_checkpoint_loads(place: Path, kind: str):
    assert outcome(kind, place / kind) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bare", [False, True], ids=["named", "unnamed"])
def test_code_of_a_checkpoint_never_runs_whatever_is_answered(
    place: Path, kind: str, bare: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`auto_map` in each JSON file, also where nothing else says of which class its content is."""
    monkeypatch.setattr(builtins, "input", lambda question="": pytest.fail("asked"))
    whole = copied(place, kind, tmp_path)
    trace = tmp_path / "trace"
    for path in sorted({*whole.rglob("*.json"), whole / "preprocessor_config.json", whole / "processor_config.json"}):
        value = json.loads(path.read_text()) if path.exists() else {}
        value["auto_map"] = dict.fromkeys(ROLES, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
        for name in ("processor_class", "tokenizer_class", "image_processor_type", "model_type") if bare else ():
            value.pop(name, None)
        folder = Path(shutil.copytree(whole, tmp_path / path.relative_to(tmp_path).as_posix().replace("/", "-")))
        (folder / path.relative_to(whole)).write_text(json.dumps(value))
        for place_of_code in {folder, (folder / path.relative_to(whole)).parent}:
            (place_of_code / "evil.py").write_text(CODE.format(trace=str(trace)))
        said = outcome(kind, folder)
        assert said is None or "y/N" not in said
        assert not trace.exists()


def test_code_that_would_be_needed_is_told(place: Path, tmp_path: Path):
    folder = copied(place, "guard", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoConfig": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    said = outcome("guard", folder)
    assert said == (
        f"judge.model={folder}: asks to run code that it brings along (auto_map in its JSON files), which is never "
        "done; name one of a kind that transformers knows"
    )


def test_every_loader_goes_through_the_one_door():
    """Checkpoints are read in `pretrained.py` only, and templates rendered in `rendering.py`."""
    doors = {"from_pretrained": "pretrained.py", "from_config": "pretrained.py", "apply_chat_template": "rendering.py"}
    found = [
        (path.name, node.func.attr)
        for path in Path(mmsafe.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in doors
    ]
    guards = ("local_model.py", "apply_chat_template")  # after each conversation was rendered within its bounds
    assert {entry for entry in found if entry[0] != doors[entry[1]]} == {guards}


def changed(section: str | None = None, **entries: Any) -> Callable[[Path], None]:
    """Other entries in a JSON file, or in a section of it."""

    def damage(path: Path) -> None:
        value = json.loads(path.read_text())
        (value if section is None else value[section]).update(entries)
        path.write_text(json.dumps(value))

    return damage


def text(content: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(content)

    return damage


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "list": text("[]"),
    "null": text("null"),
    "nested": text("[" * 100_000),
    "nan": text('{"model_type": NaN}'),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "dangling": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named_in_one_line(place: Path, kind: str, tmp_path: Path):
    """Whatever is wrong with a file of JSON or weights, its name is told."""
    whole = place / kind
    files = [path for path in whole.rglob("*") if path.suffix in {".json", ".safetensors"} and path.is_file()]
    for file in files:
        for name, damage in DAMAGE.items():
            folder = Path(shutil.copytree(whole, tmp_path / f"{file.name}-{name}"))
            damage(folder / file.relative_to(whole))
            said = outcome(kind, folder)
            if said is None:  # what nobody reads
                assert str(file.relative_to(whole)) == "clip/model.safetensors", (file, name)
            else:
                assert file.name in said, (name, said)
            shutil.rmtree(folder)


HUGE = 10**9
in_text = partial(changed, "text_config")
SILLY: list[tuple[str, str, Callable[[Path], Any], str]] = [
    ("hf", "config.json", in_text(vocab_size=HUGE), "asks for [0-9]+ weights, its files hold"),
    ("hf", "config.json", in_text(_attn_implementation="a/b"), "asks to run code of the hub"),
    ("hf", "config.json", in_text(num_hidden_layers=HUGE), "num_hidden_layers is more than 1000"),
    ("hf", "config.json", in_text(intermediate_size=HUGE), "asks for [0-9]+ weights"),
    ("hf", "config.json", changed("vision_config", image_size=10**6), "its tower sees 1000000"),
    ("hf", "config.json", in_text(hidden_size=48), r"its weight \S+ has the shape \(.*\), config.json asks"),
    ("hf", "config.json", in_text(hidden_size="wide"), "hidden_size"),
    ("hf", "config.json", in_text(vocab_size=None), "."),
    ("hf", "config.json", in_text(vocab_size=100), "its tokenizer has [0-9]+ tokens, config.json"),
    ("hf", "config.json", changed(image_token_index=3), "of its tokenizer, config.json says 3"),
    ("hf", "config.json", changed("vision_config", patch_size=0), "."),
    ("hf", "tokenizer_config.json", changed(eos_token=None), "no token that ends a response"),
    (
        "hf",
        "processor_config.json",
        changed("image_processor", crop_size={"height": HUGE, "width": HUGE}),
        "are .* cut to",
    ),
    ("hf", "processor_config.json", changed("image_processor", size={"shortest_edge": HUGE}), "images are scaled to"),
    ("original", "config.json", changed(vocab_size=HUGE), "asks for [0-9]+ weights, its files hold"),
    ("original", "config.json", changed(num_hidden_layers=HUGE), "num_hidden_layers is more than 1000"),
    ("original", "config.json", changed(hidden_size="wide"), "hidden_size"),
    ("original", "config.json", changed(mm_vision_tower=None), "."),
    ("original", "model.safetensors.index.json", changed(weight_map={"a": "../../a.safetensors"}), "is damaged"),
    ("original", "model.safetensors.index.json", changed(weight_map={"a": "b.safetensors"}), "b.safetensors is"),
    (
        "original",
        "tokenizer.model",
        lambda path: path.write_bytes(b"\x08" + b"\xff" * 10**6),
        "tokenizer.model is damaged",
    ),
    ("tower", "clip/config.json", changed("vision_config", hidden_size=HUGE), "its vision tower .*clip"),
    ("adapter", "adapter_config.json", changed(r=HUGE), "its weights are not of rank 1000000000"),
    ("adapter", "adapter_config.json", changed(base_model_name_or_path=7), "does not say what it was trained on"),
    ("guard", "config.json", changed(vocab_size=HUGE), "asks for [0-9]+ weights, its files hold"),
    ("guard", "config.json", changed(experts_implementation="a/b@v1:f"), "asks to run code of the hub"),
    ("guard", "config.json", changed(num_hidden_layers=HUGE), "num_hidden_layers is more than 1000"),
    ("guard", "chat_template.jinja", lambda path: path.write_bytes(b"\xff\xfe"), "chat_template.jinja is damaged"),
    ("guard", "adapter_config.json", text('{"base_model_name_or_path": "/etc"}'), "holds a LoRA adapter"),
    ("tagger", "config.json", changed(vocab_size=HUGE), "asks for [0-9]+ weights, its files hold"),
]


@pytest.mark.parametrize(("kind", "file", "damage", "told"), SILLY, ids=[f"{k}-{f}-{t}"[:60] for k, f, _, t in SILLY])
def test_what_does_not_fit_is_told_before_it_takes_memory(
    place: Path, kind: str, file: str, damage: Callable[[Path], Any], told: str, tmp_path: Path
):
    folder = copied(place, kind, tmp_path)
    damage(folder / file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = outcome(kind, folder)
    assert said is not None
    assert re.search(told, said), said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kB"


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_and_cut_files_never_end_in_a_traceback(place: Path, kind: str, tmp_path: Path):
    """At the fronts of files, where what is read is described, more often than in the weights behind."""
    draw = random.Random(kind)
    files = sorted(path for path in (place / kind).rglob("*") if path.is_file())
    for number in range(12):
        file, folder = draw.choice(files), Path(shutil.copytree(place / kind, tmp_path / str(number)))
        data = bytearray(file.read_bytes())
        where = int(draw.random() ** 3 * len(data))
        data[where] ^= 1 << draw.randrange(8)
        (folder / file.relative_to(place / kind)).write_bytes(data[:where] if number % 4 == 0 else data)
        outcome(kind, folder)
        shutil.rmtree(folder)
