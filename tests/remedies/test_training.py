"""Remedies of `kkanji train`: its options, its set, its cache, and the run that it resumes."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from shards.output.lock import FolderLock
from tests.making import cut_up
from tests.remedies.following import (
    Fault,
    Told,
    Words,
    another_output,
    each,
    follow,
    give,
    leave_it_out,
    run,
    with_option,
    without,
)
from tests.remedies.stock import Stock, flip
from tests.shards.kinds import write_labels

SHORT = ("--model", "test_resnet", "--epochs", "1", "--batch-size", "12")


def training(*more: str, set_name: str = "lessons") -> Callable[[Stock], Words]:
    """A short training with more options, in which {0} is the test's folder."""

    def make(place: Stock) -> Words:
        words = ["train", "--data", str(place.made / set_name), "--output", str(place / "run"), *SHORT]
        given = [word.format(place.folder) for word in more]
        for name in (word for word in given if word in words and word.startswith("--")):
            words = without(words, name)
        return [*words, *given]

    return make


def configured(text: str, *more: str) -> Callable[[Stock], Words]:
    """The same, with a configuration file."""

    def make(place: Stock) -> Words:
        return [*training(*more)(place), "--config", str(place.write("options.yaml", text))]

    return make


def out_of_the_file(told: Told) -> None:
    (told.place / "options.yaml").write_text("{}\n")


def in_the_file(told: Told) -> Words:
    """The line that the message gives, with the value that was on the command line."""
    line = told.named(r"write `([^`]+)` into a file")
    (word,) = [word for word in told.words if word.startswith("--drop-path")]
    path = told.place.write("options.yaml", line.replace("VALUE", word.partition("=")[2]))
    return [*(other for other in told.words if other != word), "--config", str(path)]


def trained_before(*more: str) -> Callable[[Stock], Words]:
    """A finished run, and a command for it with more options."""

    def make(place: Stock) -> Words:
        place.copy_run()
        fixed = ("--epochs", "2", "--log-every", "1")
        return training(*fixed, *more, set_name="shards")(place)

    return make


def the_same_options(told: Told) -> Words:
    """Each option that the message says was another: as it was."""
    words = told.words
    for name, before in re.findall(r"(--[a-z-]+) [^,;]+, was ([^;]+)", told.text):
        words = with_option(words, name, before)
    return words


def instead(told: Told, before: str, option: str) -> Words:
    return [option if word == before else word for word in told.words]


def damaged_run(place: Stock) -> Words:
    words = trained_before("--resume")(place)
    for path in (place / "run/checkpoints").glob("step-*/model.safetensors"):
        flip(path)
    return words


def good_copy(told: Told) -> None:
    shutil.rmtree(told.place / "run")
    told.place.copy_run()


def other_data(place: Stock) -> Words:
    return training("--epochs", "2", "--log-every", "1", "--resume", set_name="lessons")((place.copy_run(), place)[1])


def own_data(told: Told) -> Words:
    return with_option(told.words, "--data", told.place.made / "shards")


def streamed(*more: str, in_a_shard: int = 48) -> Callable[[Stock], Words]:
    """A compressed set of several shards, which a run unpacks into its cache."""

    def make(place: Stock) -> Words:
        data = cut_up(place.made / "lessons", place / "packed", in_a_shard, "zstd")
        return with_option([str(word) for word in training(*more)(place)], "--data", data)

    return make


def choose(option: str, value: str) -> Callable[[Told], Words]:
    """A remedy that names one of several options, without a value: one that fits."""

    def choosing(told: Told) -> Words:
        assert option in told.remedy or option in told.text
        return with_option(told.words, option, value)

    return choosing


def init_of_another(place: Stock) -> Words:
    return training("--init", str(Path(__file__).parents[2] / "models/kuzushiji-kanji"))(place)


def split_of_images(told: Told) -> Words:
    """Divided by the command that the message names, and packed."""
    place = told.place
    place.copy("originals-for-training", "more")
    command = told.named(r"make one by `kkanji (split)`")
    for words in ([command, "more", "--overwrite"], ["pack", "more", "--output", "divided", "--block-size", "125"]):
        assert run(place, words).code == 0
    return with_option(told.words, "--data", place / "divided")


def locked(place: Stock) -> Words:
    place.held = FolderLock(place / "run").__enter__()
    return training()(place)


def wait_for_it(told: Told) -> None:
    assert isinstance(told.place.held, FolderLock)
    told.place.held.leave()


def originals_given(place: Stock) -> Words:
    return with_option([str(word) for word in training()(place)], "--data", place.copy("originals"))


def missing_shard(place: Stock) -> Words:
    data = place.copy("lessons")
    next(data.glob("train-*.tar")).unlink()
    return with_option([str(word) for word in training()(place)], "--data", data)


def copy_again(told: Told) -> None:
    shutil.rmtree(told.place / "lessons")
    told.place.copy("lessons")


def unheard_left_out(told: Told) -> Words:
    out_of_the_file(told)
    return without(told.words, "--teachers")


def in_its_group(told: Told) -> None:
    """The name that the message gives, as a group and an option."""
    group, _, option = told.named(r"write (\w+\.\w+)").partition(".")
    told.place.write("options.yaml", f"{group}: {{{option}: 0.01}}\n")


def begun_elsewhere(told: Told) -> Words:
    return without([str(word) for word in another_output(told)], "--resume")


def larger_cache(told: Told) -> Words:
    """With the size that the message names."""
    (found,) = re.findall(r"give a (--cache-size) of (\S+) or more", told.text)
    return resumed(told, with_option(told.words, *found))


def resumed(told: Told, words: list[str]) -> Words:
    """With --resume, if the message says so: the run had begun."""
    return [*words, *re.findall(r"the same command with (--resume) goes on", told.text)]


ALIASED = ("network: &n {}\nother: [", "*n, " * 1000, "]\n")


def small_and_single(place: Stock) -> Words:
    return training("--batch-size", "1", "--start-size", "32")(place)


def give_size(told: Told) -> Words:
    """Of the two ways that the message gives, the first."""
    return with_option(told.words, "--start-size", told.named(r"give --start-size (\d+)"))


def in_quotes(told: Told) -> None:
    found = told.named(r"output: found (\S+),")
    told.place.write("options.yaml", f"checkpointing: {{output: '{found}'}}\n")


def ended_within_a_batch(place: Stock) -> Words:
    """48 images in batches of 10: the last one has 8 of them."""
    data = cut_up(place.made / "lessons", place / "cut", 24)
    fixed = ("--data", data, "--output", place / "run", "--model", "test_resnet", "--batch-size", "10")
    words = ["train", *map(str, fixed), "--config", str(place.write("options.yaml", "sampling: {lanes: 2}\n"))]
    assert run(place, [*words, "--epochs", "1"]).code == 0
    return [*words, "--epochs", "2", "--extend"]


def begun_anew(told: Told) -> Words:
    """A new run, with the option that the message names."""
    name, weights = told.named(r"a new one with (--init \S+)").split()
    words = without(told.words, "--extend")
    return [*with_option(words, "--output", told.place / "new"), name, weights]


def labels_of_no_class(place: Stock) -> Words:
    """A set with right checksums of wrong labels, as no command here writes it."""
    (place / "wrong").mkdir()
    data = write_labels(place / "wrong", np.arange(40) // 13)  # 0..3 of three classes
    return with_option([str(word) for word in training()(place)], "--data", data)


def verify_and_pack(told: Told) -> Words:
    """The command that the message names tells where they are; then the set is made anew."""
    ended = run(told.place, [told.named(r"run `kkanji (verify)` on the set"), "wrong"])
    assert ended.code == 1 and "has label 3, expected 0..2" in ended.text, ended.text
    return training("--output", "{0}/new")(told.place)


FAULTS = [
    Fault(
        "a window without its order",
        training("--order", "full", "--window", "2"),
        {
            "leave it out": leave_it_out,
            "give that too": lambda told: with_option(told.words, *told.named(r"no effect without ([^;]+);").split()),
        },
    ),
    Fault(
        "growing images without a beginning",
        configured("schedule: {full_size_at: 0.7}\n"),
        {
            "leave it out": out_of_the_file,
            "give that too": lambda told: with_option(told.words, told.named(r"no effect without ([^;]+);"), "32"),
        },
    ),
    Fault(
        "mixing inside without mixing",
        configured("regularisation: {mixup_stages: 1}\n", "--model", "kkanji_efficientnet_b0"),
        {
            "give that too": lambda told: with_option(told.words, told.named(r"no effect without ([^;]+);"), "0.2"),
        },
    ),
    Fault(
        "weights of classes and balanced draws",
        configured("optimization: {class_weight_exponent: 0.5}\n", "--order", "balanced", "--draws-per-class", "12"),
        {"leave it out": out_of_the_file},
    ),
    Fault(
        "teachers that are not heard",
        lambda place: configured(
            "regularisation: {distillation_weight: 0.0}\n", "--teachers", str(place.run() / "checkpoints/last")
        )(place),
        {"leave them out": unheard_left_out},
    ),
    Fault(
        "a micro-batch beyond the batch",
        training("--micro-batch", "99"),
        {
            "give a smaller one": lambda told: with_option(told.words, told.option, "6"),
        },
    ),
    Fault(
        "an option of a file",
        training("--drop-path=0.1", "--model", "kkanji_efficientnet_b0"),
        {
            "write `*": in_the_file,
            "give --config FILE": in_the_file,
        },
    ),
    Fault("a head for another network", training("--head", "cosine"), {"leave it out": leave_it_out}),
    Fault(
        "mixing inside another network",
        configured("regularisation: {mixup_stages: 1}\n", "--mixup", "0.2"),
        {
            "leave it out to mix images": out_of_the_file,
        },
    ),
    Fault(
        "a configuration file that is not there",
        training("--config", "{0}/none.yaml"),
        {
            "give a YAML file": lambda told: with_option(told.words, "--config", told.place.write("a.yaml", "{}\n")),
        },
    ),
    Fault(
        "an option of a file in another group",
        configured("schedule: {lr: 0.01}\n"),
        {
            "write *.*": in_its_group,
        },
    ),
    Fault("a cache for a set in place", training("--cache-size", "1"), {"leave it out": leave_it_out}),
    Fault(
        "evaluations without validation images",
        training("--evaluate-every", "2"),
        {
            "make one by `kkanji split`": split_of_images,
        },
    ),
    Fault("a window though all fits", training("--window", "2"), {"give --order windowed": give}),
    Fault(
        "a cache smaller than a shard",
        streamed("--cache-size", "0.0001", "--order", "full"),
        {"give a --cache-size of * or more": larger_cache},
    ),
    Fault(
        "a cache smaller than a batch's shards",
        streamed("--cache-size", "0.00013", "--order", "full", in_a_shard=12),
        {"give a --cache-size of * or more": larger_cache},
    ),
    Fault(
        "a cache smaller than a window",
        streamed("--cache-size", "0.0001", "--order", "windowed", "--window", "3", in_a_shard=12),
        {
            "give a --cache-size of * or more": larger_cache,
        },
    ),
    Fault(
        "a cache smaller than the shards of the batches in progress",
        streamed("--cache-size", "0.0001", "--order", "windowed", "--window", "1", in_a_shard=3),
        {
            "give a --cache-size of * or more": larger_cache,
        },
    ),
    Fault(
        "a cache smaller than a larger window",
        streamed("--cache-size", "0.00033", "--micro-batch", "3", "--order", "windowed", "--window", "3", in_a_shard=3),
        {"give a smaller --window": lambda told: resumed(told, with_option(told.words, "--window", "1"))},
    ),
    Fault(
        "a network for other images",
        training("--model", "inception_v3"),
        {"choose another": lambda told: with_option(told.words, "--model", told.named(r"such as \S+ or (\S+)"))},
    ),
    Fault(
        "small images in a batch of one",
        small_and_single,
        {"give *batches that leave each micro-batch two images": give_size},
    ),
    Fault(
        "a number as a folder",
        lambda place: without([*map(str, configured("checkpointing: {output: 2026}\n")(place))], "--output"),
        {"put it in quotes": in_quotes},
    ),
    Fault(
        "aliases without end",
        configured("".join(ALIASED)),
        {"write the options out": out_of_the_file},
    ),
    Fault(
        "a limit that the run is past",
        trained_before("--extend", "--epochs", "3", "--max-steps", "3"),
        {"give a higher limit": lambda told: with_option(told.words, told.option, told.named(r"or (0) for none"))},
    ),
    Fault(
        "an extension from within a batch",
        ended_within_a_batch,
        {"begin a new one with *": begun_anew},
    ),
    Fault("labels of no class", labels_of_no_class, {"run `kkanji verify` on the set": verify_and_pack}),
    Fault(
        "a run that is there",
        trained_before(),
        {
            "give --resume to go on with it": lambda told: [*told.words, told.remedy.split()[1]],
        },
    ),
    Fault(
        "a run with other options",
        trained_before("--resume", "--lr", "0.5"),
        {
            "give the same*": the_same_options,
        },
    ),
    Fault(
        "a longer run",
        trained_before("--resume", "--epochs", "3"),
        {
            "add --extend to go on otherwise": lambda told: [*told.words, told.remedy.split()[1]],
        },
    ),
    Fault(
        "an extension to the same end",
        trained_before("--extend", "--lr", "0.5"),
        {
            "give more": lambda told: with_option(told.words, told.named(r"(--epochs) \S+: the run"), "3"),
        },
    ),
    Fault(
        "a longer warm-up than an extension",
        trained_before("--extend", "--epochs", "3", "--warmup-epochs", "2"),
        {
            "give fewer": lambda told: with_option(told.words, told.option, "1"),
        },
    ),
    Fault(
        "nothing to extend",
        training("--extend"),
        {
            "leave out --extend to begin one": lambda told: without(told.words, told.remedy.split()[2]),
        },
    ),
    Fault(
        "only damaged checkpoints",
        damaged_run,
        {
            "put a copy of a good one there": good_copy,
            "start again with another --output": begun_elsewhere,
        },
    ),
    Fault("a run of other data", other_data, {"give the run's own data": own_data}),
    Fault(
        "weights of another network",
        init_of_another,
        {
            "give --model * --head *": lambda told: with_option(
                with_option(told.words, "--model", told.named(r"give --model (\S+)")),
                "--head",
                told.named(r"give .* --head (\S+)"),
            )
        },
    ),
    Fault("an output in use", locked, {"wait for it": wait_for_it, "choose another --output": another_output}),
    Fault(
        "originals as data",
        originals_given,
        {
            "make one with `kkanji pack {folder}`": lambda told: (
                run(told.place, told.named(r"`kkanji ([^`]+)`").split()),
                with_option(told.words, "--data", "shards"),
            )[1]
        },
    ),
    Fault("a missing shard", missing_shard, {"copy it again": copy_again}),
    Fault(
        "a tracker that is not installed",
        training("--log-with", "tensorboard,trackio"),
        {
            "leave it out of --log-with": lambda told: with_option(told.words, told.remedy.split()[-1], "tensorboard"),
        },
    ),
    Fault(
        "pretrained weights that are not here",
        training("--model", "resnet18.a1_in1k"),
        {
            "leave out .* to begin with random weights": lambda told: with_option(
                told.words, "--model", "resnet18.a1_in1k".removesuffix(told.named(r"leave out (\.\S+) to begin"))
            ),
        },
    ),
]


@each(FAULTS)
def test_a_remedy_works(fault: Fault, remedy: str, place: Stock) -> None:
    assert follow(place, fault, remedy).code == 0
