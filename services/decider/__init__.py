"""The brain: samples, traffic and membership in; the desired capacity out, with reason and evidence, on every tick."""
