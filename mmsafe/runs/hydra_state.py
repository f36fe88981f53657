"""Hydra's globals and internals, and what it notes of a run in `.hydra/`: no other module touches them."""

from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra.core.utils
import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra, create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from mmsafe.core.config import conf_dir
from mmsafe.core.errors import UserError
from mmsafe.core.files import write_atomically
from mmsafe.core.secrets import masked
from mmsafe.runs.run_context import RunContext


def save_config(cfg: Any, filename: str, output_dir: Path) -> None:
    """In place of Hydra's function: the same file, without secrets, and complete or not there."""
    plain = masked(OmegaConf.to_container(cfg, resolve=False, enum_to_str=True))
    dumper = get_omega_conf_dumper()
    text = yaml.dump(plain, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=dumper)
    write_atomically(output_dir / filename, text)


hydra.core.utils._save_config = save_config  # at import: for jobs of every launcher


def noted_overrides(folder: Path) -> list[str]:
    """The words of the command line that began the run in `folder`; none where Hydra noted none."""
    return [word for word in _noted(folder / ".hydra" / "overrides.yaml", list) if isinstance(word, str)]


def noted_choices(folder: Path) -> dict[str, str]:
    """What was chosen of each config group."""
    path = folder / ".hydra" / "hydra.yaml"
    node: Any = _noted(path, dict)
    for name in ("hydra", "runtime", "choices"):
        node = node.get(name, {})
        if not isinstance(node, dict):
            raise UserError(f"{path}: is damaged: its {name} are no mapping; move it away")
    return {str(group): str(choice) for group, choice in node.items()}


def _noted(path: Path, kind: type[Any]) -> Any:
    """The content of a YAML file; empty where there is none. Raises `UserError` if it is of another kind or damaged."""
    if not path.exists():
        return kind()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({' '.join(str(error).split())[:100]}); move it away") from error
    if not isinstance(content, kind):
        raise UserError(f"{path}: is damaged: it is no {kind.__name__}; move it away")
    return content


def arguments(words: Sequence[str], old_flags: Collection[str] = ()) -> Namespace:
    """Hydra's flags and, in `overrides`, all other words; `old_flags`, each with its values, are those of a command.

    Raises `UserError` for a flag that there is not.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    parser.add_argument("--retry-failed", action="store_true", help=SUPPRESS)
    parser.add_argument("--schema", action="store_true", help=SUPPRESS)
    for flag in old_flags:
        parser.add_argument(flag, dest=flag, action="append", default=[], help=SUPPRESS)
    args = parser.parse_intermixed_args(list(words))
    if args.experimental_rerun is not None:
        raise UserError("--experimental-rerun: is not supported; give the command of that run again")
    if args.config_path is not None:
        raise UserError("--config-path: is not supported; --config-dir adds a folder of your own")
    args.overrides += ["launcher.retry_failed=true"] * args.retry_failed
    return args


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; --help shows the options")


def run_hydra(command: str, args: Namespace, task: TaskFunction) -> None:
    """Do what `args` ask for, with the config `conf/<command>.yaml`: run the job or jobs, or print about the config.

    Whether they are jobs of a sweep `args.multirun` has to say; Hydra itself would compose all once more to know.
    """
    version.setbase("1.3")
    if args.hydra_help or args.shell_completion or args.info or args.cfg:
        _run_hydra(args, get_args_parser(), task, str(conf_dir()), command)
        return
    with composing(command, args.config_dir):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        mode = RunMode.MULTIRUN if args.multirun else RunMode.RUN
        run = hydra.multirun if args.multirun else hydra.run
        run(args.config_name or command, task, [*args.overrides, f"hydra.mode={mode.name}"])


def restoring() -> Callable[[], None]:
    """What puts Hydra's globals back to how they are now."""
    Plugins.instance()  # which register configs among them
    return partial(Singleton.set_state, Singleton.get_state())


def run_context(cfg: DictConfig) -> RunContext:
    """What Hydra knows of the job that runs in this process."""
    node = HydraConfig.get()
    return RunContext(
        command=str(node.job.name),
        folder=Path(node.runtime.output_dir),
        choices={str(group): str(choice) for group, choice in node.runtime.choices.items()},
        overrides=tuple(as_given(node.overrides.task)),
        config_dirs=tuple(source.path for source in node.runtime.config_sources if source.provider == "command-line"),
        cfg=cfg,
    )


def as_given(overrides: ListConfig | list[str]) -> list[str]:
    """Overrides of Hydra's node as they were typed: what they name in the environment may be a secret."""
    assert isinstance(overrides, ListConfig)  # whatever the class that types the node says
    return cast("list[str]", OmegaConf.to_container(overrides, resolve=False))


@contextmanager
def composing(config_name: str, user_dir: str | None) -> Iterator[None]:
    """In the block, configs can be composed: of our `conf/` and, before it, the user's `--config-dir`."""
    path = create_config_search_path(str(conf_dir()))
    if user_dir is not None:
        folder = Path(user_dir).resolve()
        if not folder.is_dir():
            raise UserError(f"--config-dir {user_dir}: no such folder")
        path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    try:
        Hydra.create_main_hydra2(config_name, path)
        yield
    finally:
        GlobalHydra.instance().clear()


def config_loader() -> ConfigLoader:
    """Hydra's own, which has to be initialised."""
    return GlobalHydra.instance().config_loader()


def composed_for_sweep(config_name: str, words: list[str]) -> DictConfig:
    """The config that a sweep is started with."""
    running = GlobalHydra.instance().hydra
    assert running is not None
    return running.compose_config(config_name, words, RunMode.MULTIRUN)


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job, one for every combination of the values that they list."""
    (jobs,) = BasicSweeper.split_arguments(list(overrides), None)
    return [list(job) for job in jobs]


def all_groups(parent: str = "") -> list[str]:
    """All config groups, nested ones as `a/b`."""
    repository = cast("ConfigLoaderImpl", config_loader()).repository
    groups = []
    for name in repository.get_group_options(parent, ObjectType.GROUP):  # the loader's own copies it all first
        path = f"{parent}/{name}" if parent else name
        groups += [path, *all_groups(path)]
    return groups
