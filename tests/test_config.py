"""conf/ against the code: every option composes, is typed, and mirrors the class that it names."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic_core import PydanticUndefined
from roots import ROOTS

from mmsafe.core.config import built, conf_dir, recorded, typed, without_hydra
from mmsafe.core.errors import UserError
from mmsafe.data.row_source import RowSource
from mmsafe.evaluation.benchmarks.published import PublishedBenchmark
from mmsafe.experiment.evaluate_config import EvaluateConfig
from mmsafe.microworld.scene_benchmark import MicroWorldTest

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
# Options that a user has to set, where the chosen option has them.
NEEDED = {"path": "some/path", "base_url": "http://localhost/v1", "model": "name"}
RATED = ["a=some/path", "b=other/path"]
NEEDED_BY_ROOT = {
    "export": ["checkpoint=some/path", "out=other/path"],
    "compare": RATED,
    "agreement": RATED,
    "build": ["out=other/path"],
    "prepare": ["out=other/path"],
    "report": ["runs=[some]"],
    "samples": ["runs=[some]"],
}

ONE_PART = "+data@data.parts.a=microworld"
PARTS = ("data=mmsafe_po", "benchmark.mm_safetybench.path=some/path", "benchmark.harmeval.path=some/path")

# Where a YAML file says something else than its class on purpose, besides what a user has to set (NEEDED) and
# what a file that extends another one writes itself.
OTHER_THAN_CLASS = {
    "data=mix": {"parts"},
    "benchmark=paper": {"mm_safetybench", "harmeval"},
    "benchmark=panel": {"members", "judges"},
    "benchmark=battery": {"words", "images"},
    "judge=jury": {"members"},
    "model=tiny": {"learning_rate"},
    "peft=lora": {"method"},
    "vision_cache=memory": {"store"},
    "vision_cache=disk": {"store"},
    "generation=default": {"batch_size"},
    "evaluation": {"batch_size"},
    "conversations": {"path"},
}
OF_FILES = {"num_workers"}  # of data that are files, which are decoded while the device computes

TWO = ("+judge@judge.members.a=rules", "+judge@judge.members.b=keywords")
MEMBERS = ("first", "second", "third")
SERVED = [f"judge.members.{n}.{word}" for n in MEMBERS for word in ("base_url=http://localhost:8000/v1", "model=x")]
JURIES = {"jury": TWO, "served_jury": SERVED}
ASKED_OF_ANY = {
    "blind": (),
    "train": ("benchmark=own_prompts",),
    "evaluate": ("benchmark=own_prompts", "data=microworld"),
}
# Choices that go together only, besides those that the classes themselves tell.
BESIDE = {
    ("evaluate", "defence", "eta"): ("judge@defence.judge=keywords",),
    ("train", "reference", "adapter_off"): ("peft=lora",),
    ("evaluate", "data", "mix"): ("benchmark=own_prompts", ONE_PART),
    **{(root, "data", "mix"): (ONE_PART,) for root in ("train", "blind", "prepare", "inspect", "tag")},
    **{(root, "benchmark", "paper"): PARTS for root in ("train", "evaluate")},
    **{(root, "judge", jury): (*words, *ASKED_OF_ANY[root]) for root in ASKED_OF_ANY for jury, words in JURIES.items()},
}

PAPER = {
    "objective.beta": 0.1,
    "objective.blind_weight": 1.0,
    "objective.mode": "joint",
    "optimizer.lr": 1e-6,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_steps": 10,
    "optimizer.weight_decay": 0.0,
    "trainer.gradient_clip_val": 1.0,
    "trainer.max_epochs": 1,
    "model.image_aspect_ratio": "pad",
    "model.train": {"language": True, "projector": True, "vision": False},
}
ENGINES = {"local": ["evaluate"], "endpoint": ["evaluate", "train", "blind"]}  # of `generation`; others are of sampling
OF_TRAINING = {"paper_dpo", "paper_bpo"}  # experiments that choose what an evaluation does not have


def groups(root: str) -> dict[str, str]:
    """Groups of a root's defaults list, and the option that each has there; those of a root that it extends too."""
    defaults = yaml.safe_load((CONF / f"{root}.yaml").read_text()).get("defaults", [])
    pairs = [next(iter(entry.items())) for entry in defaults if isinstance(entry, dict)]
    named = [(group.removeprefix("optional "), option) for group, option in pairs if not group.startswith("override ")]
    found = {str(group): str(option) for group, option in named}
    for extended in [entry for entry in defaults if isinstance(entry, str) and entry != "_self_"]:
        found |= groups(extended)
    return found


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def target(node: Mapping[str, Any]) -> type[Any]:
    module, _, name = node["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def written(group: str, option: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CONF / group / f"{option}.yaml").read_text()))


def extended(group: str, option: str) -> str | None:
    """The option that this one extends or stands for."""
    defaults = [name for name in written(group, option).get("defaults", ()) if name != "_self_"]
    return defaults[0] if defaults and isinstance(defaults[0], str) else None


def class_of(group: str, option: str) -> type[Any]:
    """The class that an option configures, for groups of one class each."""
    node = written(group, option)
    parent = extended(group, option)
    return target(node) if "_target_" in node or parent is None else class_of(group, parent)


def beside(root: str, group: str, option: str) -> tuple[str, ...]:
    """What has to be chosen with an option, by what its class says of itself."""
    if (root, group, option) in BESIDE:
        return BESIDE[root, group, option]
    if (root, group) == ("evaluate", "data"):
        return (f"benchmark={option if option in options('benchmark') else 'own_prompts'}",)
    if (root, group) == ("train", "data") and issubclass(class_of(group, option), RowSource):
        source = class_of(group, option)(path="some/path")
        return (
            ("objective=sft",) if "rejected" not in source.brings() else ("objective=dpo",) * (not source.has_images())
        )
    if group == "judge" and not MicroWorldTest.needs <= class_of(group, option).details:
        return (f"{'benchmark' if root == 'evaluate' else 'data'}=mmsafe_po",)
    if group == "benchmark" and root == "evaluate" and option in ASKING_DATA:
        return ("data=microworld",)
    return ()


ASKING_DATA = {
    name
    for name in options("benchmark")
    if name not in options("data") and not issubclass(class_of("benchmark", name), PublishedBenchmark)
}


def every_choice() -> Iterator[tuple[str, str, str]]:
    for root in [root for root in ROOTS if root != "doctor"]:  # its groups are those of `train`
        for group in groups(root):
            for option in options(group):
                of_training = (root, group) == ("evaluate", "experiment") and option in OF_TRAINING
                of_another_root = group == "generation" and root not in ENGINES.get(option, ["train", "blind"])
                if not of_training and not of_another_root:
                    yield root, group, option


def composed(root: str, *overrides: str) -> dict[str, Any]:
    """The resolved config, with what a user has to set."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = without_hydra(compose(root, [*NEEDED_BY_ROOT.get(root, ()), *overrides], return_hydra_config=True))
    for node in [cfg[group] for group in cfg]:
        for key, value in NEEDED.items():
            if OmegaConf.is_dict(node) and key in list(node) and OmegaConf.select(node, key) is None:
                node[key] = value
    config = typed(cfg, ROOTS[root])
    assert isinstance(config, ROOTS[root])
    return dict(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]


def differences(node: Mapping[str, Any], cls: type[Any]) -> set[str]:
    """Checks that the keys are the fields, at any depth, and names the keys whose value is not the class's default."""
    fields = cls.__pydantic_fields__
    given = {key: value for key, value in node.items() if key != "_target_"}
    assert set(given) == set(fields), cls.__name__
    differing = set()
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True)
        if default is not PydanticUndefined and plain(default) != given[name]:
            differing.add(name)
    return differing


def plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in type(value).__pydantic_fields__}  # type: ignore[attr-defined]
    return value


@pytest.mark.parametrize("root", ROOTS)
def test_root_composes_with_its_defaults_and_has_the_keys_of_its_class(root: str):
    config = composed(root)
    assert set(config) == set(ROOTS[root].__pydantic_fields__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("root", "group", "option"),
    [
        pytest.param(
            *found, id="-".join(found), marks=[pytest.mark.slow] * (found[0] != "train" and found[1] in groups("train"))
        )
        for found in every_choice()
    ],
)
def test_every_option_composes_is_typed_and_mirrors_its_class(root: str, group: str, option: str):
    node = composed(root, f"{group}={option}", *beside(root, group, option)).get(group, {})
    if "_target_" in node:
        found = differences(node, target(node))
        assert OTHER_THAN_CLASS.get(f"{group}={option}", set()) <= found <= on_purpose(group, option)
    for inner in [value for value in node.values() if isinstance(value, dict) and "_target_" in value]:
        assert differences(inner, target(inner)) == set()


def on_purpose(group: str, option: str) -> set[str]:
    """The keys in which an option may differ from its class."""
    node, parent = written(group, option), extended(group, option)
    found = OTHER_THAN_CLASS.get(f"{group}={option}", set()) | (NEEDED.keys() & node.keys())
    if group == "data" and option != "microworld":
        found |= OF_FILES
    return found if parent is None else found | on_purpose(group, parent) | (node.keys() - {"defaults", "_target_"})


@pytest.mark.parametrize("root", ROOTS)
def test_options_written_in_a_root_mirror_their_class(root: str):
    config = composed(root)
    inline = [key for key in config if key not in groups(root) and isinstance(config[key], dict)]
    assert all("_target_" in config[key] for key in inline)
    for key in inline:
        assert differences(config[key], target(config[key])) == OTHER_THAN_CLASS.get(key, set()), key


def test_every_group_belongs_to_a_root_and_no_exception_is_stale():
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}
    assert folders == {group for root in ROOTS for group in groups(root)}
    named = {name for name in OTHER_THAN_CLASS if "=" in name}
    assert named <= {f"{group}={option}" for group in folders for option in options(group)}


def test_every_file_says_whom_it_configures_and_only_experiments_and_sweeps_are_global():
    for path in CONF.glob("*/*.yaml"):
        text = path.read_text()
        is_global = "@package _global_" in text
        assert is_global == (path.parent.name in ("experiment", "sweep")), path
        content = yaml.safe_load(text)
        assert is_global or content == {} or "defaults" in content or "_target_" in text, path


@pytest.mark.parametrize(
    "objective", [pytest.param(name, marks=[pytest.mark.slow] * (name != "bpo")) for name in options("objective")]
)
@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_with_every_objective_and_changes_something(experiment: str, objective: str):
    others = [f"objective={objective}", "seed=3"]
    assert composed("train", f"experiment={experiment}", *others) != composed("train", *others)


def test_every_experiment_and_every_sweep_that_was_run_has_its_page_in_the_lab_book():
    pages = {path.parent.name for path in (ROOT / "experiments").glob("*/README.md")}
    of_many = {"microworld", "optuna", "paper_grid"}
    assert {*options("experiment"), *options("sweep")} - of_many <= pages


@pytest.mark.parametrize(
    ("root", "words", "expected"),
    [
        # the benchmark decides data and judge of an evaluation
        ("evaluate", ["benchmark=mmsafe_po"], {"data": "MMSafePO", "judge": "Keywords"}),
        ("evaluate", ["benchmark=mmsafe_po", "judge=rules"], {"judge": "Rules"}),
        ("evaluate", [], {"judge": "Rules"}),
        ("evaluate", ["benchmark=harmeval"], {"data": None}),
        # the data decide benchmark and judge of a training run
        ("train", ["data=microworld"], {"benchmark": "MicroWorldTest", "judge": "Rules"}),
        ("train", ["data=mmsafe_po"], {"benchmark": "MMSafePOTest", "judge": "Keywords"}),
        ("train", ["data=spa_vl"], {"benchmark": "OwnPrompts", "judge": "Keywords"}),
        ("train", ["data=spa_vl", "benchmark=co_defence", "judge=rules"], {"benchmark": "CoDefence", "judge": "Rules"}),
        ("train", ["data=mmsafe_po", "benchmark=harmeval"], {"data": "MMSafePO"}),
        # the learning rate follows the model unless it is set
        ("train", ["model=tiny"], {"optimizer.lr": 1e-4}),
        ("train", ["model=llava_hf"], {"optimizer.lr": 1e-6}),
        ("train", ["model=llava_hf", "optimizer.lr=0.5"], {"optimizer.lr": 0.5}),
        # sampling follows the seed of the run
        ("train", ["seed=7"], {"generation.seed": 7}),
        ("train", ["seed=7", "generation.seed=3"], {"generation.seed": 3}),
        # the paper's settings are the defaults of BPO on LLaVA
        ("train", ["model=llava13b"], PAPER),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_choice_decides_of_other_groups(root: str, words: list[str], expected: dict[str, Any]):
    config = OmegaConf.create(composed(root, *words))
    for key, value in expected.items():
        chosen = OmegaConf.select(config, key)
        is_class = OmegaConf.is_dict(chosen) and "_target_" in chosen and isinstance(value, str)
        assert (chosen["_target_"].rpartition(".")[2] if is_class else chosen) == value, key


@pytest.mark.parametrize("name", [name for name in options("benchmark") if name not in options("data")])
def test_a_benchmark_that_lacks_something_says_what_and_where_to_put_it(name: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = without_hydra(compose("evaluate", [f"benchmark={name}"], return_hydra_config=True))
    with pytest.raises(UserError, match=r"benchmark\.path is not set: get .*https://|data=m") as caught:
        typed(cfg, EvaluateConfig)
    assert "\n" not in str(caught.value)


def test_a_nested_plain_group_is_built_by_the_targets_in_it():
    logger = built({"wandb": {"_target_": "mmsafe.reporting.loggers.Wandb", "tags": ["a"]}}, "logger")
    assert (logger["wandb"].tags, logger["wandb"].project) == (["a"], "mmsafe")


@pytest.mark.parametrize(
    ("option", "value"), [("objective", {}), ("objective", {"beta": 0.1}), ("logger", {"mine": {"tags": ["a"]}})]
)
def test_a_choice_whose_file_names_no_class_is_told(option: str, value: dict[str, Any]):
    with pytest.raises(UserError, match=rf"^{option}(\.mine)?: the YAML file of this choice has no line `_target_: …`"):
        recorded({option: value}, ROOTS["train"])


@pytest.mark.parametrize("name", ["mmsafe.settings.Lengths", "mmsafe.data.lengths.Lengths"])
def test_a_class_that_an_earlier_version_had_elsewhere_is_found_by_its_name(name: str):
    assert type(built({"_target_": name, "max_length": 7}, "lengths")).__name__ == "Lengths"


def test_conf_is_found_beside_the_package_and_a_broken_install_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert conf_dir() == CONF
    package = tmp_path / "site-packages" / "mmsafe"
    (package / "conf").mkdir(parents=True)
    monkeypatch.setattr("mmsafe.core.config.__file__", str(package / "core" / "config.py"))
    assert conf_dir() == package / "conf"  # as in a wheel
    (package / "conf").rmdir()
    with pytest.raises(UserError, match="reinstall mmsafe"):
        conf_dir()
