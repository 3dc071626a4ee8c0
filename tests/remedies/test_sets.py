"""Remedies of shard sets: made, damaged, copied, pushed to a bucket, shown, and fetched as archives."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from shards import OutputFolder
from shards.cache.cache import Cache
from shards.read.opening import RESERVE
from tests.faults import hostile
from tests.faults.servers.webserver import WebServer
from tests.making import cut_up
from tests.remedies.following import (
    Fault,
    Told,
    Words,
    another_output,
    each,
    follow,
    giving,
    run,
    unset_it,
    with_option,
)
from tests.remedies.stock import WORDS, Stock, cut, draw, flip

PACKED = ("--block-size", "125")


def done(place: Stock, *words: str | Path) -> None:
    ended = run(place, [str(word) for word in words])
    assert ended.code == 0, ended.text


def packing(place: Stock, *more: str | Path) -> Words:
    place.copy("originals")
    return ("pack", place / "originals", "--output", place / "set", *PACKED, *more)


def shard(place: Stock) -> Path:
    return next((place / "shards").glob("train-*.tar"))


def stored(damage: Callable[[Stock], object], *words: str) -> Callable[[Stock], Words]:
    """A set with damage, which a command meets."""

    def make(place: Stock) -> Words:
        place.copy("shards")
        damage(place)
        return [word.format(place.folder) for word in words]

    return make


CONVERT = ("convert", "{0}/shards", "--output", "{0}/converted", "--compression", "zstd")
ARRAYS = ("arrays", "{0}/shards", "--output", "{0}/arrays")
VERIFY = ("verify", "{0}/shards")


def copy_again(told: Told) -> None:
    shutil.rmtree(told.place / "shards")
    told.place.copy("shards")


def pack_anew(told: Told) -> None:
    shutil.rmtree(told.place / "shards")
    done(told.place, "pack", told.place.made / "originals", "--output", told.place / "shards", *PACKED)


def older_manifest(place: Stock) -> None:
    path = place / "shards/dataset.json"
    path.write_text(path.read_text().replace('"version": ', '"version": 9'))


def stranger(place: Stock) -> None:
    shutil.copy(shard(place), place / "shards/train-999999.tar")


def remove_what_it_names(told: Told) -> None:
    Path(told.named(r"(/\S+): not (?:part|one)")).unlink()


def get_its_manifest(told: Told) -> None:
    """The manifest of a set that has the shard too: here the shard itself goes to such a set."""
    told.place.copy("shards", "theirs")
    shutil.rmtree(told.place / "shards")
    (told.place / "theirs").rename(told.place / "shards")


def pushed(place: Stock) -> str:
    location = place.bucket()
    place.copy("shards")
    done(place, "push", "shards", location)
    return location


def push_over_another(place: Stock) -> Words:
    location = pushed(place)
    done(place, "pack", place.made / "originals", "--output", "others", "--seed", "1", *PACKED)
    return ("push", "others", location)


def another_prefix(told: Told) -> Words:
    return [*told.words[:-1], f"{told.words[-1]}-other"]


def remove_objects(told: Told) -> None:
    from shards.store.store import open_store

    store = open_store(told.words[-1])
    for name in store.list():
        store.remove(name)


def push_again(told: Told) -> None:
    done(told.place, "push", "shards", told.words[1])


def unsplit_as_set(place: Stock) -> Words:
    place.copy("originals")
    for name in ("split.csv", "split.json"):
        (place / "originals" / name).unlink()
    return ("verify", place / "originals")


def run_them(told: Told) -> Words:
    """The commands in the message, word for word; the last makes a set in the folder of its default."""
    for command in re.findall(r"`kkanji ([^`]+)`", told.text):
        done(told.place, *command.split())
    return ("verify", "shards")


def without_an_object(place: Stock) -> Words:
    from shards.store.store import open_store

    location = pushed(place)
    open_store(location).remove(shard(place).name)
    return ("arrays", location, "--output", place / "arrays")


def with_variables(**variables: str) -> Callable[[Stock], Words]:
    """A set in a bucket, and wrong variables."""

    def make(place: Stock) -> Words:
        location = pushed(place)
        place.variables.update(variables)
        return ("arrays", location, "--output", place / "arrays")

    return make


def check_variable(told: Told) -> None:
    """Correct the variables that the remedy names, all of which were right in the environment."""
    for name in re.findall(r"\bAWS(?:_[A-Z]+)+\b", told.text):
        told.place.variables.pop(name, None)


def set_again(told: Told) -> None:
    """Set the first variable that is named to what it is meant to be."""
    told.place.variables.pop(told.named(r"\b(AWS(?:_[A-Z]+)+)"))


def in_parts(place: Stock) -> Words:
    words = balancing(place)
    done(place, *words, "--part", "0/2")
    return (*words, "--part", "0/2")


def balancing(place: Stock, *more: str) -> list[str | Path]:
    place.copy("originals")
    sizes = ("--per-class", "60", "--block-size", "125", "--shard-size", "125", "--workers", "1")
    return ["balance", place / "originals", "--output", place / "balanced", *sizes, *more]


def begun_otherwise(place: Stock) -> Words:
    words = balancing(place)
    done(place, *words, "--part", "0/2")
    return with_option([str(word) for word in words], "--seed", "1")


def finish_it(told: Told) -> Words:
    """With the options of before, which the message names: the same words as in `balancing`."""
    assert "seed" in told.text
    return with_option(told.words, "--seed", "0")


def locked(place: Stock) -> Words:
    words = packing(place)
    place.held = OutputFolder(place / "set", maker="pack")
    place.held.__enter__()
    return words


def wait_for_it(told: Told) -> None:
    assert isinstance(told.place.held, OutputFolder)
    told.place.held.__exit__(RuntimeError, RuntimeError(), None)


def indexing(place: Stock, *more: str | Path) -> list[str | Path]:
    place.write("index.json", json.dumps({"codepoint_to_id": {"一 (U+4E00)": 0, "二 (U+4E8C)": 1, "三 (U+4E09)": 2}}))
    tar = place / "tars/a.tar"
    tar.parent.mkdir(exist_ok=True)
    good = [hostile.png()] * 3
    hostile.with_images(tar, [*good, next(iter(hostile.BAD_IMAGES.values()))])
    return ["index", "--train", tar, "--classes", place / "index.json", "--output", place / "indexed", *more]


def removed_from_tar(told: Told) -> None:
    hostile.with_images(told.place / "tars/a.tar", [hostile.png()] * 3)


def two_folders(place: Stock) -> Words:
    words = [str(word) for word in indexing(place)]
    removed_from_tar(Told(place, [], "", "", ()))
    shutil.copytree(place / "tars", place / "more")
    return with_option(words, "--train", place / "tars/a.tar", place / "more/a.tar")


def each_by_itself(told: Told) -> Words:
    return with_option(told.words, "--train", told.place / "more/a.tar")


def dotted(place: Stock) -> Words:
    words = indexing(place)
    with tarfile.open(place / "tars/a.tar", "w") as tar:
        for name, content in (("scan.01.png", hostile.png()), ("scan.01.cls", b"0")):
            tar.add(place.write(name, content), name)
    return words


def rename_key(told: Told) -> None:
    """As the message renames the image that it shows, so are all."""
    found = re.search(r"rename (\S+) to (\S+\w)", told.text)
    assert found
    before, after = found.groups()
    with tarfile.open(told.place / "tars/a.tar", "w") as tar:
        for suffix in ("png", "cls"):
            tar.add(told.place / before.replace("png", suffix), after.replace("png", suffix))


def cut_tar(place: Stock) -> Words:
    words = indexing(place)
    cut(place / "tars/a.tar", 2000)
    return words


def showing(place: Stock, *more: str) -> Words:
    place.copy("shards")
    return ("show", place / "shards", "--output", place / "sheet.png", *more)


def shown_before(place: Stock) -> Words:
    words = showing(place)
    done(place, *words)
    return words


def one_image_only(place: Stock) -> Words:
    """A character whose only image is for training."""
    draw(place / "raw", "U+4E00", 20)
    draw(place / "raw", "U+4E8C", 1)
    done(place, "combine", "raw", "--output", "few")
    done(place, "split", "few")
    done(place, "pack", "few", "--output", "shards", *PACKED)
    return ("show", "shards", "--output", "sheet.png", "--label", "U+4E8C", "--split", "val")


def not_shown(place: Stock) -> Words:
    place.write("sheet.png", "mine")
    return showing(place, "--overwrite")


SHARD_GONE = stored(lambda place: shard(place).unlink(), *ARRAYS)
SHARD_CUT = stored(lambda place: cut(shard(place), 9999), *ARRAYS)


def compressed(place: Stock) -> Words:
    """A compressed set with a damaged shard, to be read."""
    done(place, "pack", place.made / "originals", "--output", "shards", *PACKED, "--compression", "zstd")
    flip(shard(place), 3000)
    return ("arrays", place / "shards", "--output", place / "arrays")


def pack_compressed(told: Told) -> None:
    shutil.rmtree(told.place / "shards")
    done(told.place, "pack", told.place.made / "originals", "--output", "shards", *PACKED, "--compression", "zstd")


def verify_it(told: Told) -> Words:
    """The command in the message tells where the damage is; then the set is packed anew."""
    command = told.named(r"run `kkanji (verify)` on it")
    ended = run(told.place, [command, str(told.place / "shards")])
    assert ended.code == 1 and "train-" in ended.text, ended.text
    pack_compressed(told)
    return told.words


def damage_columns(place: Stock) -> None:
    for path in (place / "shards").glob("*.npy"):
        flip(path)


def web(place: Stock, *words: str) -> Words:
    place.copy("shards")
    return [word.format(place.folder) for word in words]


def s3_location(told: Told) -> Words:
    assert told.remedy.endswith("s3:// location")
    location = told.place.bucket()
    return [*told.words[:-1], location]


def in_no_bucket(place: Stock) -> Words:
    location = pushed(place)
    return ("arrays", location.replace("s3://", "s3://no-such-"), "--output", place / "arrays")


def right_name(told: Told) -> Words:
    return [word.replace("no-such-", "") for word in told.words]


def wrong_prefix(place: Stock) -> Words:
    return ("verify", f"{pushed(place)}-typo")


def right_prefix(told: Told) -> Words:
    return [word.removesuffix("-typo") for word in told.words]


def without_keys(place: Stock) -> Words:
    location = pushed(place)
    place.variables |= {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    return ("arrays", location, "--output", place / "arrays")


def set_keys(told: Told) -> None:
    """Those that the message names: the environment has right ones, which empty ones hid."""
    for name in re.findall(r"set (\w+) and (\w+)", told.text)[0]:
        del told.place.variables[name]


MOST = "shards.format.manifest_writer.MOST_BYTES"  # of a file of the manifest


def many(place: Stock, *more: str | Path) -> Words:
    """`pack` of 480 images: in blocks of 125 and shards of one block, unless told otherwise."""
    for word in WORDS:
        draw(place / "raw", word, 160)
    done(place, "combine", "raw", "--output", "many", *more)
    done(place, "split", "many", "--val", "0")
    return ("pack", place / "many", "--output", place / "set", *PACKED, "--shard-size", "125")


def in_parts_of_a_manifest(place: Stock) -> Words:
    """Its shards are described in a file of their own, which was not copied."""
    place.limits[MOST] = 1500
    done(place, *many(place))
    place.limits.clear()
    shutil.move(next((place / "set").glob("*.shards-*.json")), place / "left-behind.json")
    return ("verify", "set")


def copy_all(told: Told) -> None:
    name = told.named(r"(\S+): named in dataset\.json but not there")
    shutil.copy(told.place / "left-behind.json", told.place / name)


def long_name(place: Stock) -> Words:
    words = many(place, "--name", "n" * 300)
    place.limits |= {MOST: 1700, "shards.json_reading.MOST_BYTES": 1700}
    return words


def shorter_name(told: Told) -> None:
    """With the command and the option that the message names."""
    command, option = told.named(r"give `kkanji (\w+)` a shorter"), told.named(r"a shorter (--[a-z]+)")
    done(told.place, command, "raw", "--output", "many", "--overwrite", option, "n")
    done(told.place, "split", "many", "--val", "0")


def small_blocks(place: Stock) -> Words:
    words = with_option([str(word) for word in many(place)], "--shard-size", "1250")
    place.limits[MOST] = 240
    return words


def more_shards_than_are_mapped(place: Stock) -> Words:
    done(place, *many(place))
    place.limits["shards.read.opening.MAP_LIMIT"] = place.write("max_map_count", f"{RESERVE + 2}\n")
    return ("arrays", place / "set", "--output", place / "arrays")


def larger_shards(told: Told) -> None:
    option = told.named(r"again with a larger (--[a-z-]+)")
    done(told.place, "pack", "many", "--output", "set", *PACKED, option, "625", "--overwrite")


def beside_another(place: Stock, *command: str | Path) -> None:
    """Start a process that keeps something until it is ended, and leave all waiting to it after a second."""
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, start_new_session=True)
    place.ending.enter_context(process)
    place.ending.callback(end_group, process)
    place.held = process
    place.limits["shards.read.shard_set.Cache"] = partial(Cache, wait_s=1.0)


def end_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def unpacking(place: Stock) -> tuple[Words, Path]:
    """A command that unpacks a shard into the cache, and where it does."""
    cut_up(place.made / "lessons", place / "packed", 48, "zstd")
    words = ("arrays", place / "packed", "--output", place / "arrays")
    done(place, *words)
    shutil.rmtree(place / "arrays")
    return words, place / "cache"


def flocked(path: Path) -> tuple[str | Path, ...]:
    return ("flock", path, "sh", "-c", "echo locked; sleep 600")


def locked_cache(place: Stock) -> Words:
    words, cache = unpacking(place)
    beside_another(place, *flocked(cache / ".lock"))
    wait_for_line(place)
    return words


def cache_of_another_version(place: Stock) -> Words:
    words, cache = unpacking(place)
    beside_another(
        place,
        "sh",
        "-c",
        f'echo $$; exec flock --no-fork {cache}/.pins.$$-00000000 sh -c "echo >&9; exec sleep 600" 9>&1',
    )
    pid = wait_for_line(place)
    wait_for_line(place)
    (cache / f".pins.{pid}-00000000").write_text("{}")
    return words


MAKER = """
import sys, time
from pathlib import Path
from shards.cache.shared_folder import SharedFolder
folder = SharedFolder(Path(sys.argv[1]), 9)
with folder.locked():
    folder.reserve(sys.argv[2], 9, ahead=False)
print("making", flush=True)
time.sleep(600)
"""


def stuck_maker(place: Stock) -> Words:
    words, cache = unpacking(place)
    (key,) = (path.name for path in cache.iterdir() if not path.name.startswith("."))
    (cache / key).unlink()
    beside_another(place, sys.executable, "-c", MAKER, cache, key)
    wait_for_line(place)
    return words


def wait_for_line(place: Stock) -> str:
    assert isinstance(place.held, subprocess.Popen) and place.held.stdout
    return str(place.held.stdout.readline().decode().strip())


def end_those_that_fuser_names(told: Told) -> None:
    path = told.named(r"(\S+/\.lock): locked")
    found = subprocess.run(["fuser", path], capture_output=True, text=True, check=True).stdout.split()
    end_them(told, *map(int, found))


def end_that_process(told: Told) -> None:
    end_them(told, int(told.named(r"process (\d+) ")))


def end_them(told: Told, *pids: int) -> None:
    assert isinstance(told.place.held, subprocess.Popen) and pids
    assert {os.getsid(pid) for pid in pids} == {told.place.held.pid}, "not a process of this test"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    told.place.held.wait(10)


def own_cache(told: Told) -> None:
    told.place.variables[told.named(r"give each its own (\w+)")] = str(told.place / "own-cache")


def served(place: Stock) -> tuple[WebServer, str]:
    """A set on a web server, and its address."""
    folder = place.copy("shards")
    files = {f"set/{path.name}": path.read_bytes() for path in folder.iterdir() if path.is_file()}
    server = place.ending.enter_context(WebServer(files))
    return server, f"http://127.0.0.1:{server.port}/set"


def half_replaced(place: Stock) -> Words:
    """The shards of a new set, and as yet the manifest of the old one."""
    server, address = served(place)
    done(place, *many(place), "--overwrite")
    server.files |= {f"set/{path.name}": path.read_bytes() for path in (place / "set").glob("*.tar")}
    place.held = server
    return ("arrays", address, "--output", place / "arrays")


def new_set(told: Told) -> None:
    assert isinstance(told.place.held, WebServer)
    paths = (path for path in (told.place / "set").iterdir() if path.is_file())
    told.place.held.files = {f"set/{path.name}": path.read_bytes() for path in paths}


FAULTS = [
    Fault(
        "no folder of a set",
        lambda place: ("verify", place.write("here/x").parent),
        {
            "make it with `kkanji pack` (an interrupted run leaves none": lambda told: (
                "verify",
                told.place.copy("shards"),
            ),
            "run it again": lambda told: ("verify", told.place.copy("shards")),
        },
    ),
    Fault(
        "originals as a set",
        unsplit_as_set,
        {"make one with `kkanji split {folder}` and `kkanji pack {folder}`": run_them},
    ),
    Fault(
        "originals with a split as a set",
        lambda place: ("verify", place.copy("originals")),
        {"make one with `kkanji pack {folder}`": run_them},
    ),
    Fault(
        "a set of a later version",
        stored(older_manifest, *VERIFY),
        {"make the set again with `kkanji pack`": pack_anew},
    ),
    Fault("a missing shard", SHARD_GONE, {"copy it again": copy_again, "pack the set anew": pack_anew}),
    Fault(
        "a missing shard when shown",
        stored(lambda place: shard(place).unlink(), "push", "{0}/shards", "{0}/there"),
        {
            "copy it again": copy_again,
            "pack the set anew": pack_anew,
        },
    ),
    Fault("a cut shard", SHARD_CUT, {"pack the set again": pack_anew}),
    Fault("a part of a manifest that is gone", in_parts_of_a_manifest, {"copy the set again": copy_all}),
    Fault(
        "a manifest that is too large",
        long_name,
        {"give `kkanji combine` a shorter --name or --licence": shorter_name},
    ),
    Fault(
        "a shard of too many blocks",
        small_blocks,
        {
            "give a larger --block-size": giving("625"),
        },
    ),
    Fault(
        "more shards than are mapped",
        more_shards_than_are_mapped,
        {"pack the set again with a larger --shard-size": larger_shards},
    ),
    Fault(
        "a cache that is locked",
        locked_cache,
        {"end it": end_those_that_fuser_names, "start again": end_those_that_fuser_names},
    ),
    Fault(
        "a cache of another version",
        cache_of_another_version,
        {"give each its own KKANJI_CACHE": own_cache, "end that process": end_that_process},
    ),
    Fault(
        "a stuck maker",
        stuck_maker,
        {"end that process": end_that_process, "start again": end_that_process},
    ),
    Fault(
        "a set that was half replaced",
        half_replaced,
        {"start again with the new set": new_set},
    ),
    Fault("a damaged shard", stored(lambda place: flip(shard(place)), *CONVERT), {"copy it again": copy_again}),
    Fault("a shard of others, verified", stored(stranger, *VERIFY), {"remove it": remove_what_it_names}),
    Fault(
        "a shard of others, read",
        stored(stranger, *ARRAYS),
        {
            "remove it": remove_what_it_names,
            "get the dataset.json that belongs to it": get_its_manifest,
        },
    ),
    Fault(
        "a set pushed over another",
        push_over_another,
        {
            "choose another prefix": another_prefix,
            "remove what is there": remove_objects,
        },
    ),
    Fault("an object that is gone", without_an_object, {"push the set again": push_again}),
    Fault(
        "a wrong endpoint",
        with_variables(AWS_ENDPOINT_URL="localhost:9"),
        {
            "set it again": set_again,
            "unset it": lambda told: unset_it(told),
        },
    ),
    Fault("half of a key", with_variables(AWS_SECRET_ACCESS_KEY=""), {"set both or neither": check_variable}),
    Fault(
        "a key that is unknown",
        with_variables(AWS_ACCESS_KEY_ID="nobody"),
        {
            "check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL": check_variable,
        },
    ),
    Fault(
        "a wrong secret", with_variables(AWS_SECRET_ACCESS_KEY="x" * 9), {"check AWS_SECRET_ACCESS_KEY": check_variable}
    ),
    Fault(
        "a cache that is no folder",
        lambda place: with_variables(KKANJI_CACHE=str(place.write("file") / "cache"))(place),
        {
            "set KKANJI_CACHE to a folder on a disk": lambda told: told.place.variables.update(
                {told.named(r"set (KKANJI_CACHE)"): str(told.place / "cache")}
            )
        },
    ),
    Fault(
        "one part of a balanced set",
        in_parts,
        {
            "run those parts": lambda told: with_option(told.words, "--part", "1/2"),
        },
    ),
    Fault("a balanced set begun otherwise", begun_otherwise, {"run with those to finish it": finish_it}),
    Fault("an output in use", locked, {"choose another --output": another_output, "wait for it": wait_for_it}),
    Fault(
        "bad images in a tar",
        indexing,
        {
            "remove them": removed_from_tar,
            "allow more by --max-bad": giving("1"),
        },
    ),
    Fault("tars in two folders", two_folders, {"index each by itself": each_by_itself}),
    Fault("a key with dots", dotted, {"rename scan.01.png to scan-01.png": rename_key}),
    Fault(
        "a cut tar",
        cut_tar,
        {
            "fetch the tar again": removed_from_tar,
            "make it again from its files by `tar --format=ustar --hard-dereference`": removed_from_tar,
        },
    ),
    Fault("a sheet that is there", shown_before, {"choose another --output*": another_output}),
    Fault("a picture of somebody else", not_shown, {"choose another --output": another_output}),
    Fault(
        "a sheet with a wrong name",
        lambda place: showing(place, "--kind", "card"),
        {
            "give such a name": lambda told: with_option(
                told.words, "--output", told.place / f"card{told.named(r'writes (.[a-z]+);')}"
            ),
        },
    ),
    Fault(
        "a class without images",
        one_image_only,
        {"show another class": lambda told: with_option(told.words, "--label", "U+4E00")},
    ),
    Fault(
        "sources of a set",
        lambda place: showing(place, "--source", "raw"),
        {
            "show its originals": lambda told: [told.words[0], str(told.place.copy("originals")), *told.words[2:]],
        },
    ),
    Fault(
        "a damaged compressed shard",
        compressed,
        {"pack it again": pack_compressed, "run `kkanji verify` on it": verify_it},
    ),
    Fault(
        "damaged columns of a set",
        stored(damage_columns, *VERIFY),
        {
            "make the set again": copy_again,
        },
    ),
    Fault(
        "a web server as destination",
        lambda place: web(place, "push", "{0}/shards", "http://127.0.0.1:9/a"),
        {
            "give an s3:// location": s3_location,
        },
    ),
    Fault("a bucket that is not there", in_no_bucket, {"check its name and AWS_ENDPOINT_URL": right_name}),
    Fault(
        "a wrong prefix",
        wrong_prefix,
        {
            "make it with `kkanji pack` (an interrupted run leaves none": right_prefix,
        },
    ),
    Fault("no credentials", without_keys, {"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY": set_keys}),
    Fault(
        "a model as a set",
        lambda place: ("verify", place.copy_run() / "checkpoints/last"),
        {
            "give the folder of a set": lambda told: ("verify", told.place.copy("shards")),
        },
    ),
]


@each(FAULTS)
def test_a_remedy_works(fault: Fault, remedy: str, place: Stock) -> None:
    assert follow(place, fault, remedy).code == 0
