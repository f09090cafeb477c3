"""Uploading an exported folder to the Hugging Face Hub, by ``huggingface_hub`` with its login."""

import re
from pathlib import Path

from sslam.checkpoints.location import is_hub_address
from sslam.errors import UsageError, printable

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def check_login(repository: str) -> None:
    """Refuse a name that is none, and to begin without a login.

    Raises:
        UsageError: With the remedy.
    """
    if is_hub_address(repository) or REPOSITORY.fullmatch(repository) is None:
        raise UsageError(f"--push must be owner/name of a repository on the Hub, got {printable(repository)}.")
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        raise UsageError(
            "You are not logged in to the Hub. Log in with hf auth login or HF_TOKEN, or leave --push out."
        )


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a folder; the repository is made if it is not there.

    Args:
        folder: Folder to upload with all its files.
        repository: ``owner/name``.
        private: Whether a new repository is private; one that is there stays as it is.

    Returns:
        The address under which :func:`~sslam.checkpoints.location.resolve` finds it, with the commit.

    Raises:
        UsageError: If the Hub refuses or cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import errors

    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Model written by sslam export"
        )
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError) as error:
        reason = printable(str(error).strip().partition("\n")[0])
        raise UsageError(
            f"{repository} was not uploaded ({reason}); the folder {folder} is whole. Check the name and the rights of "
            f"your token, then run: hf upload {repository} {folder}"
        ) from error
    return f"hf://{repository}@{commit.oid}"
