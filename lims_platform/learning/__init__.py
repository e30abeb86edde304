"""The life of a model: training frames, time splits, candidates, metrics, gates, registry, scores.

Pure where it can be; MLflow only in ``registry`` and ``tracking``. Not here: features (``laboratory``), assets.
"""
