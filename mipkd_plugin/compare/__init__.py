"""``mipkd compare`` and ``mipkd ablate``: the same training with different losses and seeds, and what came of it."""
