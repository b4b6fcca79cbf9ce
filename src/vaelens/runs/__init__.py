"""Runs: folders that hold a trained model and all that is needed to explain and score images with it.

config      what was trained on what, and how images are explained
new         what of that a person asked for, and what follows from the data set
objective   what an objective brings with it: network, training, localizers
data        the images of a run's data set
folder      the files of a run
localizers  fitted on a run's normal images, and kept
results     what a run says of images: explanations and verdicts
run         a run that is loaded: explain, localize
pretrained  saved for others, pushed to the hub, loaded from there
share       the same by huggingface_hub's mixin, and not imported before it is needed
card        the model card of a shared run
train       the main job: data set -> model -> calibrated run
"""

from __future__ import annotations

from vaelens.runs.config import RunConfig
from vaelens.runs.folder import METRICS
from vaelens.runs.results import FIRED_NATS, FIRED_Z, Explanation, Verdict
from vaelens.runs.run import FALSE_ALARMS, Run, load_run

__all__ = ["FALSE_ALARMS", "FIRED_NATS", "FIRED_Z", "METRICS", "Explanation", "Run", "RunConfig", "Verdict", "load_run"]
