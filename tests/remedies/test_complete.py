"""Every remedy in the sources is followed by a test, or stands here with the reason why none can."""

from itertools import chain

import pytest

from tests.remedies import test_originals, test_sets, test_training, test_use
from tests.remedies.messages import remedies, remedies_in
from tests.test_docs import exists

TABLES = (test_originals, test_sets, test_training, test_use)
FOLLOWED = {remedy for table in TABLES for fault in table.FAULTS for remedy in fault.remedies}
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "tests/tools/commands/test_fetch.py::test_a_run_goes_on_where_a_killed_one_was": ("run again to go on",),
    "tests/tools/commands/test_fetch.py::test_a_file_replaced_meanwhile_is_refused_and_then_fetched": (
        "start again with the new one",
    ),
    "tests/tools/build/test_shared_output.py::test_killed_at_random_moments_and_run_again_the_set_is_the_same": (
        "run the same command to resume",
        "run the same command again to resume",
    ),
    "tests/tools/commands/test_push.py::test_an_interrupted_push_leaves_no_set_and_is_taken_up": ("push it again",),
    "tests/launch/test_neighbours.py::test_neighbours_are_indexed_chosen_stated_and_used": (
        "make one of it with `kkanji export` first",
        "make it with `kkanji neighbours --checkpoint * --data SET`",
        "make its index again with `kkanji neighbours`",
    ),
    "tests/launch/test_neighbours.py::test_characters_are_added_by_their_images_alone": (
        "add their images with --images once the model has an index",
    ),
    "tests/launch/test_neighbours.py::test_a_model_trained_on_everything_takes_the_settings_of_another": (
        "give the settings of a model that was as --settings-of",
        "give the settings of another model as --settings-of",
    ),
    "tests/launch/test_agreement.py::test_torchrun_without_a_gpu_is_one_run": (
        "give the same options to torchrun --nproc_per_node {wanted} -m launch.train",
    ),
    "tests/launch/test_train.py::test_a_run_begins_with_another_runs_weights_and_options": (
        "begin a new run from these weights",
        "begin a new run with a lower --lr",
    ),
    "tests/shards/store/test_environment.py::test_boto3_gets_the_keys_that_no_file_has": ("pip install 'kkanji[aws]'",),
}
"""Remedies that other tests follow."""
OUT_OF_REACH: dict[str, tuple[str, ...]] = {
    "says where to look, and leaves open what is found there": (
        "check all variables that begin with *",
        "check that it may read (and for a push write and list) this bucket",
        "check the address",
        "check the location",
        "check the location and the server",
        "check the network and the server",
        "check the proxies between",
        "find the rank that is not waiting in the stacks below",
        "look at the other ranks' messages for one that failed",
        "report the versions",
        "report this if it stays",
        "see `nvidia-smi`",
        "see the model card",
    ),
    "installs what tests cannot: drivers, packages, Node.js, a container": (
        "empty npm's cache",
        "give --page FOLDER too",
        "install Node.js with npm",
        "install a torch made for an older CUDA",
        "install again with `pip install --constraint constraints.txt kkanji`",
        "install its Debian package again",
        "install kkanji first",
        "install kkanji into an environment of its own",
        "install the Debian packages *",
        "install torch for CUDA",
        "let npm reach its registry or a mirror of it once",
        "pip install 'kkanji[export]'",
        "pip install noto-cjk-sans-jp-regular",
        "pip install triton",
        "remove the other package",
        "start the container with `docker run --shm-size 8g`",
        "update the driver to * or later",
    ),
    "needs an account elsewhere: a token, a login, a region, the files of a hub": (
        "check AWS_REGION",
        "fetch them once by `hf download * *`",
        "get a new one",
        "run `hf auth login`",
        "set AWS_SESSION_TOKEN",
        "set HF_TOKEN to a token that may write",
        "try `aws sso login`",
    ),
    "needs another machine: a GPU, more memory, another processor, kernel, clock, disk or network, or no root": (
        "change its permissions",
        "choose a folder on a disk that can be written and that locks files",
        "choose a folder on a local disk as cache",
        "choose another folder as cache",
        "end other programs",
        "free some",
        "free some space",
        "give --precision float32",
        "give a smaller --model",
        "give accelerate launch --num_cpu_threads_per_process",
        "lower --cache-size",
        "make it readable",
        "raise it",
        "raise vm.max_map_count above *",
        "set OMP_NUM_THREADS",
        "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to one that they can",
        "set KKANJI_CACHE to a folder on a larger disk",
        "set KKANJI_CACHE to a folder on a local disk",
        "set it (NTP",
        "start every rank with the same code",
        "train with --augment 0",
        "train with fewer processes",
        "unset OMP_NUM_THREADS",
    ),
    "about the package itself, or a fault that no command makes": (
        "choose another --split",
        "make one in each process",
        "remove it from CHARACTERS",
        "remove one",
        "use another model folder",
        "use the folder without ONNX",
        "write several shards",
    ),
    "a caution beside remedies that are followed": ("do not write to a set that is in use",),
    "of a file that `kkanji evaluate` has just written, or of another program's data: only Python code meets it": (
        "give the report the data set that the run was trained on",
        "write it again with `kkanji evaluate`",
    ),
}
"""Remedies that a test cannot follow, by the reason."""


def test_every_remedy_is_followed_or_has_a_reason() -> None:
    known = [*FOLLOWED, *chain(*ELSEWHERE.values()), *chain(*OUT_OF_REACH.values())]
    assert sorted(set(remedies()) - set(known)) == [], "follow these"
    assert sorted(set(known) - set(remedies())) == [], "no message says these any more"
    assert sorted({each for each in known if known.count(each) > 1}) == [], "stand in two lists"


@pytest.mark.parametrize("test", ELSEWHERE)
def test_tests_elsewhere_are_there(test: str) -> None:
    assert exists(*test.split("::"))


def test_most_are_followed() -> None:
    done = len(FOLLOWED) + sum(map(len, ELSEWHERE.values()))
    assert done >= MOST_FOLLOWED <= len(remedies())


MOST_FOLLOWED = 155


def test_a_remedy_is_found_in_its_message() -> None:
    text = "*: a fault, expected none; run `kkanji verify` on it, or give --order windowed: set KKANJI_CACHE or stop it"
    assert list(remedies_in(text)) == [
        "run `kkanji verify` on it",
        "give --order windowed",
        "set KKANJI_CACHE",
        "stop it",
    ]
    assert list(remedies_in("*: no such folder; expected a shard set")) == []
