"""Format ``hub-folder``: a folder with a model card, and its upload to the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from hookline import ConfigError
from hookline.trained import portable_files
from hookline_plugins.commands.exporting.bundle import compared_when_loaded
from hookline_plugins.optional import optional_package

if TYPE_CHECKING:
    from hookline.trained import Comparison, Trained

_CARD = "README.md"


@dataclass(frozen=True)
class HubFolder:
    """A folder with a model card, for the Hugging Face Hub or anyone; extra ``hub`` for the upload.

    It holds what a bundle does, as files, and a card in ``README.md``, made of the record: how to use the model, its
    data, an evaluation, its training, versions. It is loaded like a run folder: its model is compared bit by bit.
    """

    suffix: ClassVar[str] = ""

    title: Annotated[str, Meta(description="title of the card; empty for the name of the run")] = ""
    license: Annotated[
        str, Meta(description="license of the model, such as 'mit', as on the Hub", pattern=r"^([a-z0-9][a-z0-9.-]*)?$")
    ] = ""
    tags: Annotated[tuple[str, ...], Meta(description="tags of the card, besides those of the run")] = ()
    upload: Annotated[str, Meta(description="repository to upload the folder to, such as 'me/houses'")] = ""
    private: Annotated[bool, Meta(description="whether a repository that the upload creates is private")] = False

    def export(self, trained: Trained, target: Path) -> Comparison:
        """Write the folder, and compare the model that is loaded from it."""
        from hookline_plugins.commands.exporting.card import card_of

        if self.upload:
            _hub()  # an absent package is an error before the work, not after it
        for name, data in portable_files(trained).items():
            (target / name).write_bytes(data)
        card = card_of(trained, target, title=self.title, license_name=self.license, tags=self.tags)
        (target / _CARD).write_text(card, encoding="utf-8")
        return compared_when_loaded(trained, target)

    def publish(self, path: Path) -> str:
        """Upload the folder if asked; the token is that of ``hf auth login``, or of the environment."""
        if not self.upload:
            return ""
        hub = _hub()
        try:
            api = hub.HfApi()
            repo = api.create_repo(self.upload, private=self.private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo.repo_id, folder_path=path, commit_message=f"Add {path.name}, exported by Hookline"
            )
        except (
            hub.errors.HfHubHTTPError,
            hub.errors.HFValidationError,
            hub.errors.LocalTokenNotFoundError,
            OSError,
        ) as error:
            message = f"{path} is complete, but was not uploaded to {self.upload}: {error}"
            raise ConfigError(message, hint="log in with: hf auth login; then hf upload does it") from error
        return f"uploaded to {done.commit_url}"


def _hub() -> Any:
    return optional_package("huggingface_hub", "an upload needs", "hub")
