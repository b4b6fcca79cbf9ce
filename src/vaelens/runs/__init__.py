"""Runs: folders that hold a trained model and all that is needed to explain and score images with it.

config      what was trained on what, and how images are explained
new         what of that a person asked for, and what follows from the data set
objective   what an objective brings with it: network, training, localizers
data        the images of a run's data set
folder      the files of a run
localizers  fitted on a run's normal images, and kept
run         a run that is loaded: explain, localize
train       the main job: data set -> model -> calibrated run
"""

from __future__ import annotations

from vaelens.runs.config import RunConfig
from vaelens.runs.folder import METRICS
from vaelens.runs.run import FALSE_ALARMS, FIRED_NATS, FIRED_Z, Explanation, Run, Verdict, load_run

__all__ = ["FALSE_ALARMS", "FIRED_NATS", "FIRED_Z", "METRICS", "Explanation", "Run", "RunConfig", "Verdict", "load_run"]
