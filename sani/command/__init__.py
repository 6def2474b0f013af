"""One command for a model of one's own, and the evidence that it hands over: `sani sanitize`, check, audit, purge."""
