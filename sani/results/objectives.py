"""How the study names fine-tuning on raw text, on pseudonymised text, and without listed targets."""

OBJECTIVES = (("mlm", "mlma", "ppmlm"), ("clm", "clma", "ppclm"))  # of masked models, then of causal ones
