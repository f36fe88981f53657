"""Generated responses on disk: appended batch by batch, found again under a key of all that they depend on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mmsafe.core.cache import cache_dir
from mmsafe.core.chat_client import Chat, NoAnswerError, ask_all
from mmsafe.core.claims import Claims
from mmsafe.core.endpoint import Endpoint
from mmsafe.core.errors import UserError
from mmsafe.core.row_store import RowStore
from mmsafe.core.settings import Generation
from mmsafe.data.example import Example, digest
from mmsafe.generation.served import ServedGeneration

if TYPE_CHECKING:
    from mmsafe.generation.generate import Prompt, Response
    from mmsafe.models.vlm import VLM

log = logging.getLogger(__name__)
Question = TypeVar("Question", "Example", "Prompt")


class ResponseStore(RowStore["Response"]):
    """Generated responses as rows with the fields `prompt` (its key), `response` and `finished`."""

    stem = "responses"
    key = "prompt"

    def row(self, value: Response) -> Mapping[str, Any]:
        return {"response": value.text, "finished": value.finished}

    def value(self, row: Mapping[str, Any]) -> Response:
        from mmsafe.generation.generate import Response

        return Response(row["response"], row["finished"])


def store_key(vlm: VLM, settings: Generation) -> str:
    """Hash of the model and of every setting that changes a response; neither batch size nor number of samples does."""
    idle = {"batch_size", "image_view", "num_return_sequences", "prompt", "match", "match_also", "tries"}
    idle |= {"seed", "top_p"} if settings.temperature == 0 else set()
    chosen = {name: value for name, value in asdict(settings).items() if name not in idle}
    return digest([vlm.fingerprint(), chosen])


def responses(vlm: VLM | None, prompts: Sequence[Example], settings: Generation, label: str) -> list[Response]:
    """A response to every prompt, from the cache or generated now; processes that want the same share the work.

    The same prompt given twice is sampled twice (once, if decoding is greedy). Interrupted at any moment, the next call
    generates what is missing and nothing twice. Prompts are answered as given: the caller applies `image_view`,
    and repeats them `num_return_sequences` times. Where `settings` name an endpoint, that answers in place of `vlm`.
    """
    return sampled(vlm, draws_of(prompts, greedy=settings.temperature == 0), settings, label)


def sampled(vlm: VLM | None, draws: Sequence[Prompt], settings: Generation, label: str) -> list[Response]:
    """The same for samples whose numbers are given."""
    if isinstance(settings, ServedGeneration):
        return _from_endpoint(settings, draws, label)
    from mmsafe.generation.generate import generate, longest_first

    assert vlm is not None
    keys = [draw.key for draw in draws]
    draw_of = dict(zip(keys, draws, strict=True))

    def make(claimed: list[str]) -> Iterator[list[tuple[str, Response]]]:
        for batch in generate(vlm, [draw_of[key] for key in claimed], settings):
            yield [(claimed[position], response) for position, response in batch]

    folder = cache_dir("responses") / store_key(vlm, settings)
    order = [keys[i] for i in longest_first(vlm.encoder(), draws)]
    response_of = kept_responses(folder, order, make, settings.batch_size, label)
    return [response_of[key] for key in keys]


def _from_endpoint(settings: ServedGeneration, draws: Sequence[Prompt], label: str) -> list[Response]:
    settings.check([draw.example for draw in draws])
    keys = [settings.draw_key(draw) for draw in draws]
    by_key = dict(zip(keys, draws, strict=True))

    def make(claimed: list[str]) -> Iterator[list[tuple[str, Response]]]:
        return served_responses(settings, settings.ask, {key: by_key[key] for key in claimed}, label)

    replies = kept_responses(cache_dir("responses") / settings.store_key(), keys, make, len(by_key), label)
    return [replies[key] for key in keys]


def kept_responses(
    folder: Path,
    keys: Sequence[str],
    make: Callable[[list[str]], Iterable[list[tuple[str, Response]]]],
    size: int,
    label: str,
) -> Mapping[str, Response]:
    """The response under every key, found in `folder` or made now, `size` keys at a time and in their order.

    `make` yields what it has made, each with its key; that is kept at once.
    """
    from mmsafe.core.progress import once_each, progress

    stored = ResponseStore(folder, None).read()
    if all(key in stored for key in keys):  # nothing is written, no claim either
        log.info("%s: %d prompts, all of them in the cache", label, len(keys))
        return stored
    with Claims(folder) as claims:
        store = ResponseStore(folder, claims.place)
        missing = claims.missing(keys, store.read)
        cached = len(keys) - len(missing)
        log.info("%s: %d prompts, %d in the cache, %d to generate", label, len(keys), cached, len(missing))
        with progress(label, len(missing)) as advance:
            tell = once_each(advance)
            for claimed in claims.shared(missing, store.read, size, tell):
                for batch in make(claimed):
                    store.append(batch)
                    tell(key for key, _ in batch)
    return store.kept


def served_responses(
    endpoint: Endpoint,
    ask: Callable[[Chat, Question], Awaitable[Response]],
    prompts: Mapping[str, Question],
    label: str,
) -> Iterator[list[tuple[str, Response]]]:
    """The response to every prompt with its key, as they come from `endpoint`.

    Raises `UserError` if any prompt got none, after all others were answered.
    """
    keys, failed = list(prompts), {}
    for position, answer in ask_all(endpoint, ask, list(prompts.values())):
        if isinstance(answer, NoAnswerError):
            failed[prompts[keys[position]].id] = answer
        else:
            yield [(keys[position], answer)]
    if failed:
        name, why = next(iter(failed.items()))
        failure = f"{len(failed)} of {len(keys)} prompts got no answer, such as {name} ({why})"
        raise UserError(f"{label}: {failure}; the others are kept, and the same command asks for these alone")


def draws_of(prompts: Sequence[Example], *, greedy: bool) -> list[Prompt]:
    """The prompts with the number of each sample: equal ones are numbered in their order, or all 0 if `greedy`."""
    from mmsafe.generation.generate import Prompt

    seen: Counter[str] = Counter()
    draws = []
    for example in prompts:
        key = example.prompt_key()
        draws.append(Prompt(example, 0 if greedy else seen[key]))
        seen[key] += 1
    return draws
