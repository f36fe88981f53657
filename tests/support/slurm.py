"""A SLURM of one machine: sbatch, srun, scontrol and sacct as far as submitit uses them.

`install` writes them into a folder for PATH. A job's tasks are processes with SLURM's variables; `scontrol requeue` has
its batch script run again. `tasks-<job>-<time>` in the folder holds the process ids of a start's tasks.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "scontrol", "sacct")


def install(folder: Path) -> dict[str, str]:
    """Write the commands; returns the environment in which they are found."""
    folder.mkdir()
    for name in COMMANDS:
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" {name} "$@"\n')
        command.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "SLURM_FOLDER": str(folder), "SLURM_JOB_BASE": str(1000 + os.getpid() % 7000)}


def sbatch(script: str) -> None:
    """Start every job of the script's array, and leave them running."""
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", Path(script).read_text(), flags=re.M))
    count = int(re.fullmatch(r"0-(\d+)%\d+", options["array"])[1]) + 1 if "array" in options else 1
    job, nodes, per_node = int(os.environ["SLURM_JOB_BASE"]), int(options["nodes"]), int(options["ntasks-per-node"])
    common = {
        "SLURM_NNODES": str(nodes),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NTASKS": str(nodes * per_node),
        "SLURM_NTASKS_PER_NODE": str(per_node),
        "SLURM_NODELIST": "localhost",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_NAME": options["job-name"],
    }
    for index in range(count):
        own = {"SLURM_JOB_ID": str(job + index)}
        if "array" in options:
            own |= {"SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(index)}
        subprocess.Popen(
            [sys.executable, __file__, "batch", script],
            env=os.environ | common | own,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    print(f"Submitted batch job {job}")


def batch(script: str) -> None:
    """Run a job, and again as often as it is requeued."""
    requeue = Path(os.environ["SLURM_FOLDER"]) / f"requeue-{name_of_job()}"
    while True:
        subprocess.run(["bash", script], check=False)
        if not requeue.exists():
            return
        requeue.rename(requeue.with_name(f"requeued-{name_of_job()}-{time.time()}"))


def srun(*words: str) -> None:
    """Run a command as all tasks of the job; ends with the largest status."""
    tasks, per_node = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
    files, command = {"--output": "", "--error": ""}, list(words)
    while command[0].startswith("--"):
        option = command.pop(0)
        if option in files:
            files[option] = command.pop(0)
    started = []
    for task in range(tasks):
        own = {
            "SLURM_PROCID": str(task),
            "SLURM_LOCALID": str(task % per_node),
            "SLURM_NODEID": str(task // per_node),
        }
        with open(filled(files["--output"], task), "a") as out, open(filled(files["--error"], task), "a") as err:
            started.append(subprocess.Popen(command, env=os.environ | own, stdout=out, stderr=err))
    pids = Path(os.environ["SLURM_FOLDER"]) / f"tasks-{name_of_job()}-{time.time()}"
    pids.write_text("\n".join(str(process.pid) for process in started))
    sys.exit(max(abs(process.wait()) for process in started))


def scontrol(action: str, job: str) -> None:
    """Have a job run again when its tasks have ended."""
    assert action == "requeue"
    (Path(os.environ["SLURM_FOLDER"]) / f"requeue-{job}").touch()


def sacct(*_: str) -> None:
    """Nothing is known: submitit then waits for the results of the jobs."""
    print("JobID|State|NodeList")


def name_of_job() -> str:
    """As submitit names it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def filled(pattern: str, task: int) -> str:
    """A file name with SLURM's letters replaced."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ["SLURM_JOB_ID"])
    letters = {
        "%j": os.environ["SLURM_JOB_ID"],
        "%A": array,
        "%a": os.environ.get("SLURM_ARRAY_TASK_ID", ""),
        "%t": str(task),
    }
    for letter, value in letters.items():
        pattern = pattern.replace(letter, value)
    Path(pattern).parent.mkdir(parents=True, exist_ok=True)
    return pattern


if __name__ == "__main__":
    {"sbatch": sbatch, "srun": srun, "scontrol": scontrol, "sacct": sacct, "batch": batch}[sys.argv[1]](*sys.argv[2:])
