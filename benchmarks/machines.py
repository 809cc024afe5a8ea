"""Lose a machine, go on without it, take it in again: torch's elastic agents around ``train()``, and what was lost.

    python benchmarks/machines.py [--trials N] [--seed S] [--agents K] [--heartbeats N] [--shared] [--json FILE]

Each "machine" is an agent (``torchrun``) with one worker, in a session of its own, on this computer's loopback; the
rendezvous is held by this process. In each trial one of them is killed -9 with its worker, or asked to leave
(SIGTERM), at a random step; the others go on; then it is started again, and the run goes on to its end. Or one worker
alone is killed, and its agent lives: then the world is formed anew at the same size. With ``--shared`` that is all that
is tried, and workers meet in the agents' store, as is torch's default.

What was learnt from comes from the workers' own sample logs. Exits with 1 if a sample was lost or repeated, or losses
differ by more than 1e-6 from those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.distributed import TCPStore

from chaos_evidence import Allowed, Outcome, Verdict, judge, outcome
from machines_job import SAMPLES
from modelwright.runs import Run
from modelwright.runs.sample_log import Used, read_samples

JOB = Path(__file__).with_name("machines_job.py")
STEPS, SECONDS = 1200, 0.01
ALLOWED = Allowed(losses=1e-6, weights=1e-4)
RANK_0, OTHER, ASKED, WORKER = "machine of rank 0", "another machine", "asked to leave", "a worker alone"
VICTIMS = (RANK_0, OTHER, ASKED, WORKER)
PATIENCE = 180.0
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # else agents keep the address of an agent that is gone
ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One machine lost and taken in again.

    Attributes:
        victim: one of ``VICTIMS``.
        step: that had been begun when it was lost.
        lost: seconds from its loss to the first step that nobody had begun before.
        joined: seconds from its start to such a step of the larger world, where a machine was lost.
        still: of these, the seconds in which no step was begun.
        worlds: how many there were.
        verdict: beside the undisturbed run.
    """

    victim: str
    step: int
    lost: float
    joined: float | None
    still: float | None
    worlds: int
    verdict: Verdict


@dataclass(frozen=True)
class Cluster:
    """Where the agents meet, and how they are to be started."""

    folder: Path
    port: int
    heartbeats: int
    shared: bool

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """One more machine for the run of that name."""
        wishes = {
            "is_host": "false",
            "join_timeout": 120,
            "last_call_timeout": 1,
            "close_timeout": 5,
            "keep_alive_interval": 1,
            "keep_alive_max_attempt": self.heartbeats,
        }
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes=1:4", "--nproc-per-node=1"),
            *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self.port}", f"--rdzv-id={name}"),
            "--rdzv-conf=" + ",".join(f"{key}={value}" for key, value in wishes.items()),
            *("--local-addr=127.0.0.1", "--max-restarts=100", "--monitor-interval=0.1"),
            *(str(JOB), str(self.folder / name), str(STEPS), str(SECONDS)),
        ]
        with (self.folder / f"{name}.txt").open("ab") as log:
            return subprocess.Popen(
                command,
                env=os.environ | ENVIRONMENT | ({} if self.shared else OWN_STORE),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextmanager
def started(cluster: Cluster, name: str, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many machines; none is left behind."""
    agents = [cluster.start(name) for _ in range(count)]
    try:
        yield agents
    finally:
        for agent in agents:
            lose(agent)


def lose(agent: subprocess.Popen[bytes]) -> None:
    """Kill an agent and its workers, as when the machine stops."""
    struck = [agent.pid, *workers(agent)] if agent.poll() is None else []
    for pid in struck:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    agent.wait()


def workers(agent: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of an agent's workers."""
    text = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
    try:
        return [int(pid) for pid in text.read_text().split()]
    except OSError:
        return []


def rank_of(agent: subprocess.Popen[bytes]) -> int:
    (worker,) = workers(agent)
    facts = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    return next(int(fact.removeprefix(b"RANK=")) for fact in facts if fact.startswith(b"RANK="))


def undisturbed(cluster: Cluster, agents: int) -> Outcome:
    with started(cluster, "undisturbed", agents) as running:
        await_end(running)
    return outcome(Run(cluster.folder / "undisturbed"))


def trial(cluster: Cluster, number: int, victim: str, size: int, step: int, expected: Outcome) -> Trial:
    run = Run(cluster.folder / f"trial-{number}")
    joined = still = None
    with started(cluster, run.name, size) as agents:
        await_true(lambda: furthest(world(run, size)) >= step)
        struck = next(agent for agent in agents if (rank_of(agent) == 0) == (victim == RANK_0))
        left = size if victim == WORKER else size - 1
        lost_at = time.time()
        strike(struck, victim)
        begun = furthest(read_samples(run))
        first = await_useful(run, left, begun, lost_at)
        lost = first.time - lost_at
        if victim != WORKER:
            await_true(lambda: furthest(world(run, left)) > begun + 40)
            struck.wait()
            joined_at = time.time()
            agents[agents.index(struck)] = cluster.start(run.name)
            first = await_useful(run, size, begun, joined_at)
            joined = first.time - joined_at
            still = first.time - max(used.time for used in read_samples(run) if used.time < first.time)
        await_end(agents)
    lines = read_samples(run)
    return Trial(
        victim=victim,
        step=begun,
        lost=lost,
        joined=joined,
        still=still,
        worlds=len({used.generation for used in lines}),
        verdict=judge(outcome(run), expected, [SAMPLES], ALLOWED),
    )


def strike(agent: subprocess.Popen[bytes], victim: str) -> None:
    if victim == ASKED:
        agent.send_signal(signal.SIGTERM)
    elif victim == WORKER:
        os.kill(workers(agent)[0], signal.SIGKILL)
    else:
        lose(agent)


def await_useful(run: Run, size: int, begun: int, since: float) -> Used:
    """The first step of the newest world of that size that had not been ``begun`` before."""

    def found() -> list[Used]:
        return [used for used in world(run, size) if used.step > begun and used.time > since]

    await_true(found)
    return found()[0]


def world(run: Run, size: int) -> list[Used]:
    """What the newest world of that size has begun; nothing while there is none."""
    lines = read_samples(run)
    ranks: dict[str, set[int]] = {}
    for used in lines:
        ranks.setdefault(used.generation, set()).add(used.rank)
    newest = lines[-1].generation if lines else ""
    return [used for used in lines if used.generation == newest and len(ranks[newest]) == size]


def furthest(lines: Sequence[Used]) -> int:
    return max((used.step for used in lines), default=0)


def await_true(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the run does nothing any more")
        time.sleep(0.1)


def await_end(agents: Sequence[subprocess.Popen[bytes]]) -> None:
    codes = [agent.wait(PATIENCE) for agent in agents]
    if any(codes):
        raise RuntimeError(f"agents left with {codes}")


def told(trials: Sequence[Trial]) -> None:
    for victim in VICTIMS:
        found = [trial for trial in trials if trial.victim == victim]
        if not found:
            continue
        times = {
            "to the next useful step": [each.lost for each in found],
            "from the machine's start to a step with it": [each.joined for each in found if each.joined is not None],
            "of these standing still": [each.still for each in found if each.still is not None],
        }
        listed = [f"{name} {middle(values)}" for name, values in times.items() if values]
        print(f"{victim}: {len(found)} trials, {sum(each.verdict.exact for each in found)} exact; {', '.join(listed)}")


def middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} s (worst {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--heartbeats", type=int, default=10, help="that an agent may miss, one a second")
    parser.add_argument("--shared", action="store_true", help="meet in the agents' store, as is torch's default")
    parser.add_argument("--json", type=Path, help="also write every trial here")
    parser.add_argument("--folder", type=Path, help="keep the runs and the agents' logs here")
    wishes = parser.parse_args()
    chosen = random.Random(wishes.seed)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as temporary:
        cluster = Cluster(wishes.folder or Path(temporary), store.port, wishes.heartbeats, wishes.shared)
        cluster.folder.mkdir(parents=True, exist_ok=True)
        expected = undisturbed(cluster, wishes.agents)
        trials: list[Trial] = []
        for number in range(wishes.trials):
            victim = WORKER if wishes.shared else VICTIMS[number % len(VICTIMS)]
            trials.append(trial(cluster, number, victim, wishes.agents, chosen.randint(30, 120), expected))
            print(shown(trials[-1]), flush=True)
    print(f"{wishes.agents} agents on one computer, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    told(trials)
    if wishes.json is not None:
        wishes.json.write_text(json.dumps([asdict(each) for each in trials], indent=2))
    sys.exit(0 if all(each.verdict.exact for each in trials) else 1)


def shown(trial: Trial) -> str:
    back = "" if trial.joined is None else f", back {trial.joined:.1f} s, standing still {trial.still:.1f} s"
    verdict = trial.verdict
    return (
        f"{trial.victim} in step {trial.step}: next useful step {trial.lost:.1f} s{back}, {trial.worlds} worlds; lost "
        f"{verdict.lost}, repeated {verdict.repeated}, largest difference of a loss {verdict.loss_difference:.1e}: "
        + ("exact" if verdict.exact else "NOT EXACT")
    )


if __name__ == "__main__":
    main()
