"""Log-probs of a model as it is now, on disk: made in one resumable pass that any number of processes share."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from torch.utils.data import DataLoader

from mmsafe.core.cache import cache_dir
from mmsafe.core.claims import Claims
from mmsafe.core.precision import autocast
from mmsafe.core.progress import progress
from mmsafe.data.example import digest
from mmsafe.generation.generate import evaluating
from mmsafe.models.family import family_of
from mmsafe.models.vlm import VLM
from mmsafe.reference.policies import Collate, ReferencePolicy, Sums
from mmsafe.reference.store import LogProbStore
from mmsafe.scoring.collate import Batch, Collator, Item, Items, guarded, opened
from mmsafe.scoring.features import FeatureCache
from mmsafe.scoring.sampler import cut, text_length
from mmsafe.scoring.token_batches import batches_of
from mmsafe.scoring.ways import RowLogProbs, Scoring, by_row

log = logging.getLogger(__name__)
CHUNK = 256
"""Items in a file: what a kill can lose, and what one process takes on at a time."""


def store_key(vlm: VLM, scoring: Scoring, precision: str) -> str:
    """Hash of everything but the data that log-probs depend on: model, scoring, attention, arithmetic, libraries."""
    attention = family_of(vlm.model.config.model_type).attention(vlm.model)
    way = [type(scoring).__name__, asdict(scoring), attention, precision, vlm.model.device.type]
    return digest([vlm.fingerprint(), way, torch.__version__, transformers.__version__])


class CachedLogProbs(ReferencePolicy):
    """Looks up log-probs on disk, written by one pass of the model as it was when this object was made.

    `label` stands beside the progress bar; a file holds the rows of `chunk` items.
    """

    def __init__(
        self, vlm: VLM, scoring: Scoring, precision: str, label: str = "reference", chunk: int | None = None
    ) -> None:
        super().__init__()
        self._llava = [vlm]  # not a submodule: it is the policy
        self.scoring = scoring
        self.precision = precision
        self.label = label
        self.chunk = chunk or CHUNK
        self.store = LogProbStore(cache_dir("reference") / store_key(vlm, scoring, precision))

    def prepare(self, items: Items, collator: Collator, batch_size: int, num_workers: int = 0) -> None:
        """Score the rows that are not in the cache; several processes share the work, chunk by chunk."""
        keys = _row_keys(items, collator)
        wanted = {key for row in keys for key in row.values()}
        self.store.read(wanted)
        chunks = {
            self.store.name(key for row in chunk.keys for key in row.values()): chunk
            for chunk in _chunks(items, keys, self.store.kept, self.chunk)
        }
        log.info("%s: %d responses, %d in the cache", self.label, len(wanted), len(wanted & self.store.kept.keys()))
        if not chunks:  # nothing is written, no claim either
            return
        size = {name: len(chunk.items) for name, chunk in chunks.items()}
        with progress(self.label, sum(size.values())) as advance, Claims(self.store.folder) as claims:
            for (name,) in claims.shared(
                list(chunks), self.store.names, 1, lambda names: advance(sum(size[name] for name in names))
            ):
                chunk = chunks[name]
                groups = [{row: rows[row] for row in chunk.keys[0]} for rows in collator.groups]
                lacking, keys_of = replace(collator, groups=groups), dict(zip(chunk.items, chunk.keys, strict=True))
                batches = batches_of(lacking, items, chunk.items, batch_size)
                loader: Any = DataLoader(
                    items,
                    batch_sampler=batches,
                    collate_fn=partial(guarded, lacking),
                    num_workers=num_workers,
                    generator=torch.Generator(),  # the global one is the training's
                )
                ordered = [keys_of[position] for batch in batches for position in batch]
                self.store.write(self._scored(loader, ordered, collator.features), name)
        self.store.read(wanted)

    @torch.no_grad()
    def _scored(
        self, loader: Any, keys: Sequence[Mapping[str, str]], features: FeatureCache | None
    ) -> dict[str, Tensor]:
        model: Any = self._llava[0].model
        device, position, scored = model.device, 0, {}
        with evaluating(model), autocast(self.precision, device.type):
            for batch in loader:
                batch = self.scoring.with_features(model, opened(batch).to(device), features)
                rows = self.scoring.log_probs(model, batch)
                for index in range(len(batch)):
                    for name, key in keys[position].items():
                        scored[key] = rows[name].log_probs[index][rows[name].mask[index]].float().cpu()
                    position += 1
        return scored

    def let_go(self) -> None:
        """The log-probs are on disk by then."""
        self._llava.clear()

    def collate(self, collator: Collator) -> Collate:
        """Batches that carry their reference log-probs; looked up where the batch is made, in a worker."""
        return partial(_with_reference, collator, self.store.kept)

    def sums(self, items: Items, collator: Collator, batch_size: int, device: torch.device) -> Sequence[Sums]:
        """Summed log-probs from disk, without a batch or a forward pass."""
        log_probs = self.store.kept
        return [
            {name: (float(log_probs[key].double().sum()), len(log_probs[key])) for name, key in row.items()}
            for row in _row_keys(items, collator)
        ]

    def log_probs(self, batch: Batch) -> dict[str, RowLogProbs]:
        """The log-probs that the batch carries, without a forward pass."""
        assert batch.reference is not None
        return by_row(batch, batch.reference)


class _Chunk(NamedTuple):
    """Rows whose log-probs share a file: items by position, and for each the keys of the same rows, by name."""

    items: list[int]
    keys: list[dict[str, str]]


def _row_keys(items: Items, collator: Collator) -> list[dict[str, str]]:
    """Keys of the rows of each item, by row name."""
    return [
        {name: collator.row_key(item, row) for name, row in collator.groups[item.group].items()}
        for item in map(items.__getitem__, range(len(items)))
    ]


def _chunks(items: Items, keys: Sequence[Mapping[str, str]], known: Mapping[str, Tensor], size: int) -> list[_Chunk]:
    """The rows that are not in `known`, each once; items of similar length together, the longest first."""
    seen = set(known)
    lacking: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, row in enumerate(keys):
        names = tuple(name for name, key in row.items() if key not in seen)
        seen |= set(row.values())
        if names:
            lacking[names].append(position)
    return [
        _Chunk(part, [{name: keys[position][name] for name in names} for position in part])
        for names, positions in lacking.items()
        for part in cut(sorted(positions, key=lambda position: -text_length(items[position].example)), size)
    ]


def _with_reference(collator: Collator, known: Mapping[str, Tensor], items: Sequence[Item]) -> Batch:
    batch = collator(items)
    keys = [collator.row_key(item, collator.groups[item.group][name]) for name in batch.rows for item in items]
    batch.reference = torch.cat([known[key] for key in keys])
    if len(batch.reference) != batch.targets:
        raise RuntimeError(f"{len(batch.reference)} cached log-probs for {batch.targets} response tokens")
    return batch
