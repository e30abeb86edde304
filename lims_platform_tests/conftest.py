"""What holds for every test. Here: the environment no test may leak into. Not here: fixtures of one room."""

import os
import tempfile

from hypothesis import settings

# MLflow's default store is a file in the working directory, which would be the checkout.
os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{tempfile.mkdtemp(prefix='lims-tests-')}/mlflow.db")

# a step that meets passing trouble tries again at once
os.environ.setdefault("LIMS_TRANSIENT_WAIT_SECONDS", "0.01")

# a busy machine is no failure
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
