"""How far one disk is on its way through the switch (control/gate.py). Each is in the journal before the next one is begun."""

ATTACHED, DETACHED, SEALING, SEALED, OPENING, OPEN = "attached", "detached", "sealing", "sealed", "opening", "open"
