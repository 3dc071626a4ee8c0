"""An exported model on the Hugging Face Hub: the metadata of its card, and the upload."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCardData

from kkanji.wording import licence_name, slug, untagged
from shards import InputError

# The Hub's names of measures, and ours.
MEASURES = {"top1": "accuracy", "top5": "top_5_accuracy", "balanced_accuracy": "balanced_accuracy", "f1_weighted": "f1"}
LEFT_OUT = (".kkanji-output",)  # what only this machine needs
SHOWN = 200  # characters of the Hub's message that ours quotes


def card_metadata(
    model: str, data: Mapping[str, Any], evaluation: Mapping[str, Any], *, verdict: str, onnx: bool = False
) -> str:
    """The YAML block that begins a model card: licence, data, and the measures as a model-index.

    model: the network's name. data: of config.json. verdict: whether the evaluated images are proven to be unseen; of
    images that were trained on, no measure is listed.
    """
    name, split = untagged(str(data["name"])), str(evaluation["split"])
    proof = "" if verdict == "proven" else ", not proven disjoint from training"
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=slug(name),
            dataset_name=name,
            dataset_split=split,
            metric_type=theirs,
            metric_name=f"{ours} on {evaluation['images']:,} images{proof}",
            metric_value=round(float(evaluation[ours]), 6),
        )
        for ours, theirs in MEASURES.items()
    ]
    listed = None if verdict == "trained on" else results
    facts = ModelCardData(
        license=licence_name(str(data["licence"])),
        library_name="timm",
        pipeline_tag="image-classification",
        language="ja",
        tags=["kuzushiji", "historical-handwriting", "timm", *(["onnx"] if onnx else [])],
        datasets=[slug(name)],
        metrics=list(MEASURES.values()),
        model_name=f"{model} on {name}" if listed else None,
        eval_results=listed,
    )
    return f"---\n{facts.to_yaml()}\n---\n\n"


def check_repository(name: str) -> None:
    """Raises InputError unless a name is one of the Hub's, with its owner."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII):
        raise InputError(f"--push-to-hub {name}: expected owner/name, of letters, digits, '-', '_' and '.'")


def push(folder: Path, repository: str) -> str:
    """Upload an exported folder in one commit; a new repository is private. Returns the address of the commit.

    Raises InputError if the Hub refuses, is out of reach, or there is no token.
    """
    check_repository(repository)
    paths = (path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in LEFT_OUT)
    files = [CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path) for path in paths]
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.create_commit(repository, files, commit_message="Weights, class map and card by kkanji export")
    except Exception as error:  # those of its HTTP library, too, which changes with its releases
        found = " ".join(str(error).split())[:SHOWN]
        remedy = f"run `hf auth login`, or set HF_TOKEN to a token that may write; the folder is whole: {folder}"
        raise InputError(f"--push-to-hub {repository}: {found}; {remedy}") from error
    return str(commit.commit_url)
