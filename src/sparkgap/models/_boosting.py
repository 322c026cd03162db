"""What the two gradient boosting libraries share: methods and their outputs."""

from __future__ import annotations

METHODS = {"predict": "prediction", "predict_proba": "probability", "margin": "margin", "leaf": "leaf"}
"""Method -> name of its output."""

METHOD_HELP = "predict (default), predict_proba, margin (before the link function) or leaf (leaf of each tree)"
