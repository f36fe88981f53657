"""Generated responses on disk: appended batch by batch, found again under a key of all that they depend on."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mmsafe.cache import cache_dir, locked
from mmsafe.data.example import Example, digest
from mmsafe.errors import UserError
from mmsafe.settings import Generation

if TYPE_CHECKING:
    from mmsafe.generation import Prompt, Response
    from mmsafe.models.llava import Llava

log = logging.getLogger(__name__)


class ResponseStore:
    """One JSON line per prompt: `prompt` (its key), `response`, `finished`. A line cut by a kill is dropped."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "responses.jsonl"
        self.lock = FileLock(folder / "lock")
        self.found: dict[str, Response] = {}

    def read(self) -> dict[str, Response]:
        """All complete rows; truncates the file after the last of them. Call it with the lock held."""
        from mmsafe.generation import Response

        self.found, good = {}, 0
        if self.path.exists():
            with self.path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    row = self._parsed(line)
                    self.found[row["prompt"]] = Response(row["response"], row["finished"])
                    good += len(line)
            os.truncate(self.path, good)
        return self.found

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            return dict(json.loads(line))
        except ValueError as error:
            raise UserError(f"{self.path}: a line is damaged ({error}); delete the file, it is made again") from error

    def append(self, rows: Iterable[tuple[str, Response]]) -> None:
        """Add rows and wait until they are on the disk."""
        with self.path.open("a", encoding="utf-8") as file:
            for key, response in rows:
                self.found[key] = response
                row = {"prompt": key, "response": response.text, "finished": response.finished}
                file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def store_key(llava: Llava, settings: Generation) -> str:
    """Hash of the model and of every setting that changes a response; neither batch size nor number of samples does."""
    idle = {"batch_size", "image_view", "num_return_sequences"}
    idle |= {"seed", "top_p"} if settings.temperature == 0 else set()
    chosen = {name: value for name, value in asdict(settings).items() if name not in idle}
    return digest([llava.fingerprint(), chosen])


def responses(llava: Llava, prompts: Sequence[Example], settings: Generation, label: str) -> list[Response]:
    """A response to every prompt, from the cache or generated now.

    The same prompt given twice is sampled twice (once, if decoding is greedy). Interrupted at any moment, the next call
    generates what is missing and nothing twice. Prompts are answered as given: the caller applies `image_view`,
    and repeats them `num_return_sequences` times.
    """
    from mmsafe.generation import generate
    from mmsafe.reporting.progress import progress

    draws = _draws(prompts, greedy=settings.temperature == 0)

    store = ResponseStore(cache_dir("responses") / store_key(llava, settings))
    keys = [draw.key for draw in draws]
    with locked(store.lock, label):
        found = store.read()
        missing = {key: prompt for key, prompt in zip(keys, draws, strict=True) if key not in found}
        order, cached = list(missing), len(prompts) - len(missing)
        log.info("%s: %d prompts, %d in the cache, %d to generate", label, len(prompts), cached, len(order))
        with progress(label, len(order)) as advance:
            for batch in generate(llava, list(missing.values()), settings):
                store.append((order[position], response) for position, response in batch)
                advance(len(batch))
        return [store.found[key] for key in keys]


def _draws(prompts: Sequence[Example], *, greedy: bool) -> list[Prompt]:
    from mmsafe.generation import Prompt

    seen: Counter[str] = Counter()
    draws = []
    for example in prompts:
        key = example.prompt_key()
        draws.append(Prompt(example, 0 if greedy else seen[key]))
        seen[key] += 1
    return draws
