"""Memory is bounded by a portion of the rows, not by their number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reader_rows import picture

CODE = """
import sys
from pathlib import Path
from mmsafe.data.readers.trl import TRLPreference
from mmsafe.curation.preparation.preparing import PrepareConfig, prepare
source = TRLPreference(path=sys.argv[1])
options = {"format": sys.argv[3], "images": "embedded", "max_shard_size": 10**8, "splits": None}
prepare(PrepareConfig(data=source, out=Path(sys.argv[2]), **options), {})
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # getrusage counts the parent, too
print(int(peak.split()[1]) // 1024)
"""
WORDS = 20_000
"""Characters of a response."""


def rows(count: int) -> list[dict[str, str]]:
    return [
        {"prompt": f"Question {i}", "chosen": f"{i} " * (WORDS // len(f"{i} ")), "rejected": "no"} for i in range(count)
    ]


def jsonl(path: Path, count: int) -> Path:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(count))
    return path


def images(path: Path, count: int) -> Path:
    """A table in which every row has an image of the size of the texts above."""
    data = picture(path.parent / "a.png").read_bytes()
    found = [
        row | {"chosen": "yes", "images": [{"bytes": data + os.urandom(WORDS), "path": None}]} for row in rows(count)
    ]
    pq.write_table(pa.Table.from_pylist(found), path, row_group_size=500)
    return path


def peak(path: Path, out: Path, form: str) -> int:
    """MiB of a process that prepares the file."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(path), str(out), form],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize(
    ("kind", "form"),
    [(jsonl, "parquet"), pytest.param(images, "arrow", marks=pytest.mark.slow)],
)
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, kind, form: str) -> None:  # type: ignore[no-untyped-def]
    suffix = {"images": "parquet"}.get(kind.__name__, kind.__name__)
    few, many = (
        peak(kind(tmp_path / f"{count}.{suffix}", count), tmp_path / f"out-{count}", form) for count in (2_000, 8_000)
    )
    # 6,000 more rows of 20 kB are 114 MiB more.
    assert many - few < 50
