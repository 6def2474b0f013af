"""Where things lie: repository root, run folders, figures, shipped weights."""

import os
from pathlib import Path

PACKAGE = Path(__file__).parent

# The modules in the order of the road: each imports only from those before it.
ROAD = (
    "paths",
    "runs",
    "readers",
    "corpora",
    "models",
    "tagging",
    "entities",
    "surrogates",
    "matching",
    "blacklists",
    "alignment",
    "blocks",
    "masking",
    "erasure",
    "predictions",
    "checkpoints",
    "training",
    "pretraining",
    "evaluation",
    "probes",
    "downstream",
    "sanitizing",
    "material",
    "measuring",
    "study",
    "tables",
    "drawings",
    "pretrained_drawings",
    "ablation_drawings",
    "demo_drawings",
    "figures",
    "costs",
    "ablation",
    "distillation",
    "rules",
    "claims",
    "executing",
    "sweep",
    "demo",
    "demo_view",
)


def home() -> Path:
    """The repository root: SANI_HOME, else the nearest parent with an environment.yml, else the current folder."""
    if named := os.environ.get("SANI_HOME"):
        return Path(named).expanduser().resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "environment.yml").exists() and (folder / "sani").is_dir():
            return folder
    return here


def runs() -> Path:
    """The folder of all run folders (git-ignored; may hold private text)."""
    return home() / "runs"


def figures() -> Path:
    """The folder of the figures and the tables they are drawn from: SANI_FIGURES, else figures/ in the root."""
    named = os.environ.get("SANI_FIGURES")
    return Path(named).expanduser().resolve() if named else home() / "figures"


def weights() -> Path:
    """The folder of the small weights that ship with the package."""
    return PACKAGE / "weights"
