"""The competitors of SANI and the controls, one file each; `sanitize` finds them by name."""
