"""An epoch of training from a bucket that everything happens to, beside the same epoch from the disk.

    python -m tests.faults.epoch SHARDS FOLDER [PERCENT]

Three trainings of one epoch on a set of any size: from the disk; from a bucket behind a proxy that answers PERCENT (5)
of the requests with 503, resets as many and cuts as many short, inverts one bit and stalls once; from the bucket while
the server is SIGKILLed and started again. Losses of all steps and the weights at the end must be the same, bit for bit:
each step saw the same samples, with the right pixels. What was found goes to FOLDER/epoch.json; exit code 1 if they
differ.

`tests/launch/test_streaming.py` does the same with the rendered sample; this is for real data, and takes minutes.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from shards import ShardSet, write_file
from tests.faults.servers.proxy import FaultProxy
from tests.faults.servers.seaweed import SeaweedFS
from tests.launch.commands import ROOT, environment
from tests.launch.test_streaming import steps, weights

BUCKET, PREFIX = "kkanji", "kkanji/epoch"
# Small images, so that minutes suffice for an epoch of real data: what is read does not depend on it.
OPTIONS = (
    *("--model", "kkanji_efficientnet_fused_s", "--epochs", "1", "--batch-size", "250", "--log-every", "1"),
    *("--start-size", "16", "--full-size-at", "1", "--order", "windowed", "--window", "4"),
)
CACHE_FRACTION = 0.5  # of the set, so that shards are evicted
KILL_AT_STEP = 20
TRAFFIC = ("requests", "retries", "refetched", "evicted", "fetched_bytes")


def main() -> None:
    """Run the three trainings, one after another."""
    shards, folder = Path(sys.argv[1]), Path(sys.argv[2])
    fault_rate = float(sys.argv[3] if len(sys.argv) > 3 else 5) / 100
    folder.mkdir(parents=True)
    manifest = ShardSet(shards).manifest
    size = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    cache = ("--cache-size", f"{size * CACHE_FRACTION / 1e9:.3f}")
    report: dict[str, Any] = {
        "set": manifest.name,
        "images": manifest.splits["train"].samples,
        "bytes": size,
        "fault_rate": fault_rate,
    }
    with ExitStack() as stack:
        server = stack.enter_context(SeaweedFS(folder / "server"))
        server.make_bucket(BUCKET)
        variables = server.environment
        _upload(shards, variables)
        runs = {"disk": _train(str(shards), folder / "disk", (), {})}
        with FaultProxy(server.port) as proxy:
            for kind in ("503", "reset", "short"):
                proxy.arm(kind, rate=fault_rate, match="train-")
            proxy.arm("flip", times=1, match="train-00003")
            proxy.arm("stall", times=1, match="train-00005")
            behind = {**variables, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
            runs["proxy"] = _train(f"s3://{PREFIX}", folder / "proxy", cache, behind)
            report["proxy"] = proxy.counts()
        runs["killed"] = _train(f"s3://{PREFIX}", folder / "killed", cache, variables, kill=server)
    same = len({json.dumps([run["losses"], run["weights"]]) for run in runs.values()}) == 1
    report["same"] = same
    report["runs"] = {name: {**run, "losses": len(run["losses"])} for name, run in runs.items()}
    write_file(folder / "epoch.json", json.dumps(report, indent=1) + "\n")
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    sys.exit(0 if same else 1)


def _upload(shards: Path, variables: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "tools", "push", str(shards), f"s3://{PREFIX}"]
    subprocess.run(command, env=environment(**variables), check=True, cwd=ROOT)


def _train(
    data: str, run: Path, options: tuple[str, ...], variables: Mapping[str, str], *, kill: SeaweedFS | None = None
) -> dict[str, Any]:
    command = [sys.executable, "launch/train.py", "--data", data, "--output", str(run), *OPTIONS, *options]
    variables = environment(**variables, KKANJI_CACHE=str(run.with_name(f"{run.name}-cache")))
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if kill and line.startswith(f"step {KILL_AT_STEP} "):
                kill.kill()
                time.sleep(3)
                kill.start()
    assert process.returncode == 0
    last = steps(run)[-1]
    moved = {name: last[name] for name in TRAFFIC if name in last}
    losses = [entry["loss"] for entry in steps(run)]
    return {"losses": losses, "weights": weights(run), "seconds": time.monotonic() - start, **moved}


if __name__ == "__main__":
    main()
