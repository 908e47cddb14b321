"""Upload of a folder to the Hugging Face Hub; every obstacle is one sentence."""

import os
from pathlib import Path
from typing import Any

from ptuning.errors import RunError, first_line
from ptuning.system.hub import hub_answers, looks_like_hub_id

_DRY = "--dry-run writes the folder without sending it."


def check_repo_id(repo_id: str) -> None:
    """Raise :class:`RunError` if ``repo_id`` is no name of a repository."""
    if not looks_like_hub_id(repo_id):
        raise RunError(f"'{repo_id}' is not the name of a repository on the Hub: OWNER/NAME, e.g. me/rte-layernorm.")


def ready_to_push(repo_id: str) -> None:
    """Raise :class:`RunError` if there is no token or the Hub does not answer, before anything large is loaded.

    Raises
    ------
    RunError
        With what to do.
    """
    if not hub_answers():
        why = "HF_HUB_OFFLINE is set" if "HF_HUB_OFFLINE" in os.environ else "it does not answer"
        raise RunError(f"The Hub cannot be reached to push {repo_id}: {why}. {_DRY}")
    from huggingface_hub import get_token

    if get_token() is None:
        raise RunError(
            "There is no token for the Hub. Make one with the right to write at https://huggingface.co/settings/tokens "
            f"and type `hf auth login`, or set HF_TOKEN. {_DRY}"
        )


def push(folder: Path, repo_id: str, private: bool = False) -> str:
    """Return the address of a model repository, after uploading a folder to it in one commit.

    Parameters
    ----------
    folder
        What :func:`ptuning.deltas.export.export` wrote.
    repo_id
        ``OWNER/NAME``; made if it is not there.
    private
        Whether a new repository is private.

    Raises
    ------
    RunError
        If the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi, errors

    unreachable: Any = errors.HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's, by the client's version
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        address = api.create_repo(repo_id, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload with ptuning")
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        reason = (error.server_message or str(error)).strip().splitlines()[0].rstrip(".")
        mend = "The token may not write there: take one of an account that may." if status in (401, 403) else _DRY
        raise RunError(f"The Hub refused {repo_id} ({reason}). {mend}") from error
    except (errors.OfflineModeIsEnabled, unreachable, OSError) as error:
        raise RunError(f"The Hub cannot be reached to push {repo_id}: {first_line(error)}. {_DRY}") from error
    return str(address)
