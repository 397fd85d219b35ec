"""AdamW: Adam with decoupled weight decay, as optax has it (also there: `weight_decay` of Adam)."""

from dataclasses import replace

from cflow_sym.optimizers._common import WEIGHT_DECAY
from cflow_sym.optimizers.adam import SPEC as ADAM

DECAY = replace(WEIGHT_DECAY, off=None, default=1e-4)

SPEC = replace(
    ADAM,
    name="adamw",
    title="AdamW",
    hyperparameters=tuple(DECAY if h == WEIGHT_DECAY else h for h in ADAM.hyperparameters),
    source="arXiv:1711.05101",
)
