"""What is the same in every federation, and why it is no setting.

All parties must have the same values, and no digest compares them: whoever changes one makes another protocol, and
raises SCHEMA in protocol/messages.py.
"""

from typing import Final

FULL_BATCH_UNITS: Final = 2000
"""Up to this many training units a hospital takes the full batch: least noise, exact accounting."""

MODEL_SEED: Final = 0
"""Of the public starting weights. Any other number is as good; a model with weights of its own sets them itself."""

EXPLORATION: Final = 0.25
"""The share of a sparse round's blocks that is drawn anew. Without any, what was zero once would never be sent; more
sends what hardly moves. No study of ours changed it.
"""

SKETCH_DIMENSIONS: Final = 4096
"""Of a similarity sketch: a cosine of 4,096 is off by about 1 / 64, far less than noise leaves uncertain."""

GATE: Final = 3.0
"""Signal over what the known noise leaves uncertain, below which a hospital is compared with nobody: noise alone passes
in less than 5 % of cases (tests/learning/personal/test_signal.py). Lower, graphs would be drawn from noise.
"""

GRAPH_ROUNDS: Final = 5
"""Rounds for which a chosen graph is kept. Each new choice tells the coordinator a little more of who is like whom."""

WEIGHT_BITS: Final = 12
"""Of the network lasso's integer weights: the most that a sum's slots hold, and at 6 the minimum is missed by 1 %."""

EVALUATION_SHARE: Final = 0.25
"""Noisy steps that released metrics count as, over those that train: a fifth of what a run's epsilon pays for. Training
has 12 % more noise by it. With a tenth, noise in released metrics would be 1.5 times as large.
"""
