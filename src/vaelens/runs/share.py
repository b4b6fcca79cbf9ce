"""A run as the Hugging Face hub sees it (see `vaelens.shared`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from vaelens._version import __version__
from vaelens.data.files import shown
from vaelens.errors import RunError
from vaelens.output import write_bytes, write_json, writing
from vaelens.runs.card import EVALUATION, TEMPLATE, evaluations, tags_of, text_of
from vaelens.runs.config import CONFIG
from vaelens.runs.folder import CALIBRATION, METRICS, MODEL, report_of, save_run
from vaelens.runs.known import KnownRun
from vaelens.runs.localizers import FOLDER
from vaelens.shared import Shared

ARCHITECTURE = "config.json"
_REPORTS = tuple(f"{report_of(Path(), synthetic)}/{EVALUATION}" for synthetic in (False, True))


class SharedRun(Shared, model_card_template=TEMPLATE):  # type: ignore[call-arg]
    """A run with what the hub's mixin asks of a model."""

    what = "run"
    files = (CONFIG, ARCHITECTURE, MODEL, CALIBRATION, METRICS, f"{FOLDER}/*.safetensors", *_REPORTS, "README.md")
    model: KnownRun

    def _save_pretrained(self, save_directory: Path) -> None:
        run = self.model
        run.shareable().save(save_directory)
        save_run(save_directory, run.model, run.tensors, run.metrics)
        for kept in sorted((run.path / FOLDER).glob("*.safetensors")):
            with writing(save_directory / FOLDER):
                (save_directory / FOLDER).mkdir(exist_ok=True)
            write_bytes(save_directory / FOLDER / kept.name, _read(kept))
        for synthetic, values in evaluations(run.path).items():
            place = save_directory / report_of(Path(), synthetic)
            with writing(place):
                place.mkdir(exist_ok=True)
            write_json(place / EVALUATION, values)
        network = {**run.config.network, "input_shape": list(run.input_shape)}
        about = {"library_name": "vaelens", "vaelens": __version__, "objective": run.config.objective, "network": network}
        write_json(save_directory / ARCHITECTURE, about)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card with the run's data, figures and limits (see `runs.card`)."""
        dataset = self.model.config.dataset["name"]
        data = self.card_data(tags_of(self.model), None if dataset == "folder" else [dataset])
        text = text_of(self.model, self.name, self.licence)
        return ModelCard.from_template(card_data=data, template_str=TEMPLATE, text=text)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {shown(path)} ({error.strerror}); mend it, or remove it") from error
