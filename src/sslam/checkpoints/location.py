"""Where weights are: a file, a folder with its weights, or a repository of the Hugging Face Hub.

The Hub is read by ``huggingface_hub``, with its cache (``HF_HOME``), login (``hf auth login`` or ``HF_TOKEN``) and
offline switch (``HF_HUB_OFFLINE=1``). Weights and ``config.json`` are downloaded, never code.
"""

import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sslam.checkpoints.hub_layout import CONFIG, WEIGHTS
from sslam.errors import CheckpointError, printable

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
HUB = re.compile(r"hf:/{1,2}(?=[^/])")  # a pathlib.Path of an address has one slash
ADDRESS = re.compile(r"(?P<owner>[^/@]+)/(?P<name>[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<file>.+))?")
FORM = "hf://owner/name, hf://owner/name@revision or hf://owner/name/file"


@dataclass(frozen=True)
class Location:
    """Weights that were found.

    Attributes:
        file: The file on this machine; of a repository, in the cache beside its ``config.json``.
        address: What leads to the same file again: the path as it was given, or the address of a file of the Hub at a
            commit.
        name: Short name for tables: the file's without ending, the folder's or the repository's.
        revision: Commit of the repository; None of a local file.
    """

    file: Path
    address: str
    name: str
    revision: str | None = None


def is_hub_address(path: str | Path) -> bool:
    """Whether a path names a repository of the Hub."""
    return HUB.match(str(path)) is not None


def resolve(path: str | Path) -> Location:
    """Find the weights that a path names, and download them where need be.

    Args:
        path: A file; a folder that holds ``model.safetensors``, ``pytorch_model.bin`` or exactly one other file of
            weights, such as one of ``sslam convert --to hub`` or of a run; or ``hf://owner/name[@revision][/file]``,
            where without a file the same is looked for, at a branch, tag or commit.

    Returns:
        The location. A local path at which there is nothing is passed on as it is.

    Raises:
        CheckpointError: If a folder or repository does not tell which file is meant, or the Hub cannot give it.
    """
    if is_hub_address(path):
        return _on_the_hub(str(path))
    path = Path(path)
    if not path.is_dir():
        return Location(path, str(path), path.stem)
    folder = path if _weights_in(path) or not (path / "checkpoints").is_dir() else path / "checkpoints"
    file = folder / _choose(_weights_in(folder), f"the folder {folder}", f"{path}/FILE")
    return Location(file, str(path), path.name or path.resolve().name)


def _weights_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())


def _choose(names: Iterable[str], place: str, form: str) -> str:
    """The file of weights that is meant: one of the preferred names, or the only one."""
    found = [name for name in names if name.endswith(SUFFIXES)]
    for name in WEIGHTS:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    held = printable(", ".join(found)) or "none"
    raise CheckpointError(
        f"There must be {' or '.join(WEIGHTS)}, or exactly one other file of weights, in {place}, which holds {held}. "
        f"Name the file: {form}."
    )


def _on_the_hub(given: str) -> Location:
    match = ADDRESS.fullmatch(HUB.sub("", given).rstrip("/"))
    if match is None:
        raise CheckpointError(f"{given} is no address of the Hub. Write it as {FORM}.")
    repository, revision, name = f"{match['owner']}/{match['name']}", match["revision"], match["file"]
    if name is not None and (not name.endswith(SUFFIXES) or ".." in name.split("/")):
        raise CheckpointError(f"{given} names no file of weights. Its name must end in {', '.join(SUFFIXES)}.")
    with _explained(f"hf://{repository}" + (f"@{revision}" if revision else "") + (f"/{name}" if name else "")):
        file = _weights_of(repository, revision, name)
        # The cache's own layout: .../snapshots/COMMIT/FILE.
        snapshot = next(folder for folder in file.parents if folder.parent.name == "snapshots")
        name, commit = file.relative_to(snapshot).as_posix(), snapshot.name
        _download_if_there(repository, commit, name.replace(file.name, CONFIG))
    return Location(file, f"hf://{repository}@{commit}/{name}", match["name"], commit)


def _weights_of(repository: str, revision: str | None, name: str | None) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    if name is None:
        for preferred in WEIGHTS:
            if (file := _download_if_there(repository, revision, preferred)) is not None:
                return file
        if constants.HF_HUB_OFFLINE:
            patterns = [f"*{suffix}" for suffix in SUFFIXES]
            names = _weights_in(Path(snapshot_download(repository, revision=revision, allow_patterns=patterns)))
        else:
            names = HfApi().list_repo_files(repository, revision=revision)
        name = _choose(names, f"the repository {repository}", f"hf://{repository}/FILE")
    return _download(repository, revision, name)


def _download_if_there(repository: str, revision: str | None, name: str) -> Path | None:
    """None where the repository has no such file, or the machine is offline and the cache has none."""
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return _download(repository, revision, name)
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError) and not constants.HF_HUB_OFFLINE:
            raise  # there may be one
        return None


def _download(repository: str, revision: str | None, name: str) -> Path:
    """The file in the cache, into which it is downloaded where need be."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    is_cached = isinstance(try_to_load_from_cache(repository, name, revision=revision), str)
    is_local = not (constants.HF_HUB_OFFLINE or is_cached) and _is_unresolved(repository, revision, name)
    return Path(hf_hub_download(repository, name, revision=revision, local_files_only=is_local))


def _is_unresolved(repository: str, revision: str | None, name: str) -> bool:
    """Whether no name server knows the Hub: its client would ask again for half a minute, which cannot be set.

    Whatever else is wrong, such as a slow network, the client tries again as it does.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(repository, name, revision=revision))
    except Exception as error:  # the HTTP library's own, whose cause tells
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, socket.gaierror):
            cause = cause.__cause__ or cause.__context__
        return cause is not None
    return False


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """What the Hub or the way there refuses, in a sentence."""
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import logging  # which sets the level when it is imported

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # or every retry would say what is said once in the end
    try:
        yield
    except errors.GatedRepoError as error:
        text = "is gated: ask for access on its page, then log in with hf auth login or HF_TOKEN"
        raise CheckpointError(f"{address} {text}.") from error
    except errors.RepositoryNotFoundError as error:
        text = "is no repository on the Hub, or a private one. Check its name, or log in with hf auth login or HF_TOKEN"
        raise CheckpointError(f"{address} {text}.") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{address} has no such revision. Give a branch, tag or commit of it.") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if constants.HF_HUB_OFFLINE:
            text = (
                "is not in the cache, and HF_HUB_OFFLINE is set. Unset it, or download it on a machine with a network"
            )
        else:
            text = "is not in the cache, and the Hub cannot be reached. Check the network, or give a local file"
        raise CheckpointError(f"{address} {text}.") from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(f"{address} is not in the repository. Look at its list of files on the Hub.") from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{address} is no address of the Hub. Write it as {FORM}.") from error
    except (errors.HfHubHTTPError, ConnectionError, TimeoutError) as error:
        reason = printable(str(error).strip().partition("\n")[0])
        raise CheckpointError(f"{address} cannot be downloaded ({reason}). Try again later.") from error
    finally:
        logging.set_verbosity(level)
