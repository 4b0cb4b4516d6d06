"""The parts of ``common.bus`` that know no socket: what is kept, who is let in, what a link has seen."""
