"""The colours of the arms: one fixed colour each in every figure and in the trace reader. From Okabe & Ito's colour-blind-safe set."""

ARMS = {"base": "#0072B2", "rl": "#D55E00", "hybrid": "#009E73", "control": "#7F7F7F"}
"""Blue, vermilion, bluish green, grey."""

ROUTERS = (ARMS["hybrid"], "#CC79A7", "#56B4E9", "#E69F00")
"""Routers that share an axis: every one is a hybrid, so the first has the hybrid's colour and none has that of base, RL or a control."""

OTHERS = ("#CC79A7", "#56B4E9", "#E69F00", "#332288", "#999933", "#882255")
"""What is no arm (organisms, rewards, formats) and stands beside others of its kind: none has the colour of an arm. The last three are from Tol's muted set."""

NAMES = {"rl": "RL"}
"""Arms that are written otherwise than they are called."""

SHARES = {"timing": "#56B4E9", "content": "#E69F00"}
"""Parts of the gain."""

STEERED = "#CC79A7"
"""Tokens of the steered base model."""

CAUSES = {"memorisation": "#333333", "format": "#F0E442", "sharpening": "#CC79A7", **SHARES}
"""Causes of a gain, in the order in which a verdict takes them off."""
