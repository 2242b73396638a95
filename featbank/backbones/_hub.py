"""Files of the Hugging Face hub: from its cache on this machine, else downloaded into it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featbank.errors import InvalidInputError, MissingWeightsError, one_line

__all__ = ["hub_file"]


def hub_file(
    repository: str, files: Sequence[str], *, owner: str, ways: Sequence[str], revision: str | None = None
) -> Path:
    """Return the first of some files that the cache of the hub has, else download the first there is.

    Parameters
    ----------
    repository : str
        ``"ORG/NAME"``.
    files : sequence of str
        Paths inside it.
    owner : str
        Whose file it is, for messages.
    ways : sequence of str
        Other ways out than to run once with network, for messages.
    revision : str, optional
        Branch, tag or commit.

    Raises
    ------
    InvalidInputError
        If the hub has no repositories of such names.
    MissingWeightsError
        If there is none, and none to be had.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        for file in files:
            found = try_to_load_from_cache(repository, file, revision=revision)
            if isinstance(found, str):
                return Path(found)
        for file in files[:-1]:
            try:
                return Path(hf_hub_download(repository, file, revision=revision))
            except LocalEntryNotFoundError:  # no network: the first is what is wanted
                raise
            except EntryNotFoundError:
                continue
        return Path(hf_hub_download(repository, files[-1], revision=revision))
    except HFValidationError as error:
        raise InvalidInputError(f"{owner!r} names no repository of the hub: {one_line(error)}") from error
    except Exception as error:  # whatever a network may raise
        reason = one_line(error)
        said = ["run once with network, or set HF_HOME to a cache that has it", *ways]
        raise MissingWeightsError(
            f"{files[0]!r} of {repository!r}, which {owner!r} needs, is not in the cache of the hub and "
            f"could not be downloaded ({reason}). Ways out: "
            + "; ".join(f"({number}) {way}" for number, way in enumerate(said, start=1))
        ) from error
