"""Upload a folder with the Hub's own client."""

from __future__ import annotations

from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is in their docs

from pipeline.project.errors import PipelineError, UsageError


def check_hub_name(name: str) -> None:
    """Check a repository name.

    Raises:
        UsageError: the name is not `name` or `owner/name`.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"--hub {name}: {str(error).splitlines()[0]}") from None


def require_token() -> str:
    """Return the token of the logged-in user.

    Raises:
        UsageError: nobody is logged in.
    """
    token = get_token()
    if token is None:
        raise UsageError("--push: no token for the Hub. Run `hf auth login`, or set HF_TOKEN to one that may write.")
    return token


def upload_model(folder: Path, name: str, token: str) -> str:
    """Upload a folder as one commit, to a private repository that is created if missing, and return its address.

    Raises:
        PipelineError: the Hub cannot be reached, or refuses the upload.
    """
    api = HfApi(token=token)
    try:
        repository = api.create_repo(name, exist_ok=True, private=True)
        api.upload_folder(repo_id=repository.repo_id, folder_path=folder, commit_message="Distilled student")
    except (HTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PipelineError(f"--push {name}: {reason}. The folder stays at {folder}: push it again.") from None
    return str(repository)
