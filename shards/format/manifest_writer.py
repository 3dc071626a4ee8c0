"""Completing a set: its columns, its class map and, last, its manifest."""

from pathlib import Path

from shards.errors import InputError
from shards.format.columns import write_columns
from shards.format.manifest import CLASSES_NAME, MANIFEST_NAME, Manifest
from shards.format.manifest_rules import check_manifest
from shards.json_reading import MOST_BYTES
from shards.output.files import write_file


def write_manifest(folder: Path, manifest: Manifest, classes_json: str) -> Manifest:
    """Complete a set: write the columns of its splits, the class map and then the manifest, which is returned.

    Raises: InputError if no reader would accept it, or the labels in the shards are not those that it counts.
    """
    try:
        check_manifest(manifest)
    except ValueError as error:
        raise InputError(f"{folder / MANIFEST_NAME}: {error}") from error
    manifest = write_columns(folder, manifest)
    content = manifest.to_json().encode()
    if len(content) > MOST_BYTES:
        found = f"{len(content):,} bytes, expected at most {MOST_BYTES:,}"
        raise InputError(f"{folder / MANIFEST_NAME}: {found}; give larger blocks, or make several sets")
    write_file(folder / CLASSES_NAME, classes_json)
    # Last: readers take a folder with a manifest for a complete set.
    write_file(folder / MANIFEST_NAME, content)
    return manifest
