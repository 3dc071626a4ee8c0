"""onnxruntime-web, as npm has it: one version, whose hash is checked."""

import base64
import hashlib
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from shards import InputError

PACKAGE = "onnxruntime-web@1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
SCRIPT, MODULE, WASM = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
FOLDER = "package/dist"  # in the package
PATIENCE_S = 300
REMEDY = "install Node.js with npm, and let npm reach its registry or a mirror of it once: it keeps what it loaded"


def runtime_files() -> dict[str, bytes]:
    """SCRIPT, MODULE and WASM of onnxruntime-web. Raises InputError if npm is missing or brings another file."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _run(["npm", "pack", PACKAGE, "--prefer-offline", "--silent", "--pack-destination", name], folder)
        archive = next(folder.glob("*.tgz"))
        _check(archive)
        members = [f"{FOLDER}/{each}" for each in (SCRIPT, MODULE, WASM)]
        _run(["tar", "-xzf", archive.name, *members], folder)
        return {each: (folder / FOLDER / each).read_bytes() for each in (SCRIPT, MODULE, WASM)}


def _check(archive: Path) -> None:
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != SHA512:
        raise InputError(
            f"{PACKAGE}: npm brought a file of sha512 {found}, expected {SHA512}; empty npm's cache, or {REMEDY}"
        )


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=PATIENCE_S)  # noqa: S603
    except FileNotFoundError as error:
        raise InputError(f"--page needs {PACKAGE}, and there is no {command[0]} here; {REMEDY}") from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f"--page needs {PACKAGE}: {command[0]} took over {PATIENCE_S} s; {REMEDY}") from error
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())[-160:]
        raise InputError(f"--page needs {PACKAGE}: {command[0]} failed: {said}; {REMEDY}") from error
